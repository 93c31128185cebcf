set -e
mkdir -p tree/a; echo one > tree/a/f; cp -a tree twin; mv twin moved; ln -s moved link; ln tree/a/f hard
find moved -type f | xargs -n1 wc -c | sort | uniq | head -n 1 > /dev/null
tar czf t.tgz tree; tar tzf t.tgz > /dev/null; sed s/one/two/ tree/a/f | grep -q two
awk 'BEGIN { exit 0 }'; mkfifo pipe; (echo x > pipe &) ; read line < pipe; test "$line" = x
( sleep 0.01 & wait ); timeout 5 true; nice true; nohup true > /dev/null 2>&1; env true; id > /dev/null
dd if=/dev/zero of=z bs=1k count=4 2> /dev/null; split -b 1k z; sha256sum z > /dev/null; du -s . > /dev/null
df . > /dev/null; date > /dev/null; mktemp > /dev/null; stat z > /dev/null; truncate -s 1 z; shred -u z
trap 'echo fine' EXIT; chmod 700 tree; touch -d yesterday tree; rm -r tree moved link; stty -a 2> /dev/null || true
perl -e "fork; wait"
test "$(whoami)" = "$USER"; test "$(cd && pwd)" = "$HOME"; test "$(echo ~executor)" = "$HOME"; getent hosts localhost > /dev/null
echo > z; sync z; sync -f z; sync; TMPDIR=/var/tmp mktemp > /dev/null
