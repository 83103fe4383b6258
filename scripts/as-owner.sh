#!/bin/sh
# In the image: `as-owner COMMAND`, and `wasmdrop`, which is `as-owner /opt/wasmdrop/bin/wasmdrop`.
#
# If root starts it and AS_OWNER_OF names a directory, the command runs as the owner of that directory
# and without any capability: it can read what that user drops, and the results belong to that user.
# This includes commands of `docker exec`. Else it runs the command as it is.
#
# It needs the capabilities CHOWN, SETGID, SETPCAP and SETUID, and the engine's init process needs KILL
# to pass signals on to another user.
set -eu

case $0 in
*/wasmdrop) set -- /opt/wasmdrop/bin/wasmdrop "$@" ;;
esac
if [ -n "${AS_OWNER_OF:-}" ] && [ "$(id -u)" = 0 ]; then
    owner=$(stat -c %u:%g "$AS_OWNER_OF")
    # In a user namespace, root is the unprivileged user who runs the engine (rootless). If root is the
    # owner then, the daemon stays root and runs the jobs as another user.
    read -r _ outside _ </proc/self/uid_map
    if [ "${owner%:*}" = 0 ] && [ "$outside" = 0 ]; then
        owner=65532:65532
        # If the file system has no owners, the daemon says whether it can write there.
        chown "$owner" "$AS_OWNER_OF" || true
    fi
    if [ "${owner%:*}" != 0 ]; then
        export HOME=/
        exec setpriv --reuid="${owner%:*}" --regid="${owner#*:}" --clear-groups \
            --inh-caps=-all --bounding-set=-all -- "$@"
    fi
fi
exec "$@"
