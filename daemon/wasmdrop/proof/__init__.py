"""Receipts: signed statements about what a deterministic job computed, which others can check.

:mod:`statement <wasmdrop.proof.statement>` defines the claim, :mod:`envelope
<wasmdrop.proof.envelope>` carries it with its signatures, :mod:`keys <wasmdrop.proof.keys>` signs
and verifies. Only ``keys`` imports cryptography, which is an extra: import it when there is a key.
"""
