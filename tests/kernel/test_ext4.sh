# Runs in the guest: a volume as a block device with ext4 on it, while the host kills replicas. PORT, EXPORT, FILES come from the host.
attach() {
    nbd-client 10.0.2.2 $PORT /dev/nbd0 -C 4 -block-size 4096 -name $EXPORT -timeout 60 >/dev/null || fail "nbd-client"
    i=0
    while [ "$(cat /sys/block/nbd0/size)" = 0 ]; do i=$((i + 1)); [ $i -lt 100 ] || fail "the device has no size"; usleep 100000; done
    say "attached: $(cat /sys/block/nbd0/size) sectors, cache: $(cat /sys/block/nbd0/queue/write_cache), fua: $(cat /sys/block/nbd0/queue/fua), discard: $(cat /sys/block/nbd0/queue/discard_max_bytes)"
}
detach() {
    umount /mnt || fail "umount"
    blockdev --flushbufs /dev/nbd0
    echo 3 >/proc/sys/vm/drop_caches
    e2fsck -f -n /dev/nbd0 || fail "fsck finds damage"
    nbd-client -d /dev/nbd0 >/dev/null || fail "detaching"
    i=0
    while [ -e /sys/block/nbd0/pid ]; do i=$((i + 1)); [ $i -lt 100 ] || fail "the device stays attached"; usleep 100000; done
    say "detached"
}
# write_files DIR COUNT: files of many sizes, with their checksums taken before they are written.
write_files() {
    mkdir -p /mnt/$1
    n=0
    while [ $n -lt $2 ]; do
        dd if=/dev/urandom of=/tmp/piece bs=1000 count=$(((n * 37) % 190 + 3)) 2>/dev/null
        sum=$(md5sum </tmp/piece)
        # Some reach the device at once, the others when the kernel sees fit.
        [ $((n % 3)) = 0 ] && how=fsync || how=notrunc
        dd if=/tmp/piece of=/mnt/$1/file-$n bs=64k conv=$how 2>/dev/null || fail "writing $1/file-$n"
        echo "${sum%% *}  /mnt/$1/file-$n" >>/tmp/sums
        n=$((n + 1))
    done
}
compare() {
    echo 3 >/proc/sys/vm/drop_caches
    md5sum -c /tmp/sums >/tmp/result 2>&1 || { grep -v ': OK$' /tmp/result; fail "files differ"; }
    say "$(wc -l </tmp/sums) files compare equal"
}
while_writing() {
    write_files $1 $FILES &
    writer=$!
    usleep 200000
    shift
    for what in "$@"; do ask "$what"; done
    wait $writer || fail "the writer"
    sync
}

attach
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 /dev/nbd0 || fail "mkfs.ext4"
say "made"
mount -t ext4 -o discard /dev/nbd0 /mnt || fail "mount"
say "mounted"
write_files first $FILES
sync
say "written"
while_writing second "kill replica-1" "progress"
while_writing third "restart replica-1" "kill replica-2" "progress"
while_writing fourth "kill replica-3" "restart replica-3" "restart replica-2" # for a moment without a majority: I/O waits
compare
# Some files go (their space is discarded), some are written over.
rm -r /mnt/second
grep -v /mnt/second/ /tmp/sums | grep -v /mnt/first/ >/tmp/sums.new; mv /tmp/sums.new /tmp/sums
write_files first $FILES
sync
fstrim /mnt || say "no fstrim here"
compare
detach
ask "kill replica-1" # the other two have it all
attach
e2fsck -f -n /dev/nbd0 || fail "fsck finds damage after attaching again"
mount -t ext4 /dev/nbd0 /mnt || fail "mounting again"
compare
ask "restart replica-1"
detach
say "all good"
