"""Content ids: the names that IPFS gives to files and directories, computed without a network.

The formats are UnixFS (https://specs.ipfs.tech/unixfs/), dag-pb
(https://ipld.io/specs/codecs/dag-pb/spec/) and CID (https://github.com/multiformats/cid). Which of
the many possible ids of a file is meant, is the subject of a profile
(https://specs.ipfs.tech/ipips/ipip-0499/).

This package needs only the standard library.
"""
