/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The kinds of image in the crash tests. Small disks, so that operations meet each other;
 * small clusters where tables are to grow. */
#include "crash-fixture.h"

#define CREATE "qemu-img create -q -f qcow2 "
#define IO     "qemu-io -f qcow2 top "
/* With the passphrase of crash_fixture_open. */
#define SECRET "--object secret,id=s,data=words "
#define CREATE_AES                                                                       \
    "qemu-img create -q -f qcow2 " SECRET "-o encrypt.format=aes,encrypt.key-secret=s"
#define IO_AES                                                                           \
    "qemu-io " SECRET "--image-opts "                                                    \
    "driver=qcow2,file.filename=top,encrypt.key-secret=s "
/* A key derivation of a few ms, since each open does it; qemu-img, which times it, fails
 * where the time rounds to zero. */
#define CREATE_LUKS(options, disk)                                                       \
    "for ms in 1 10 100 1000; do qemu-img create -q -f qcow2 " SECRET                    \
    "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=$ms," options         \
    " " disk " && break; done\n"
#define CREATE_QED "qemu-img create -q -f qed "
#define IO_QED     "qemu-io -f qed top "

const CrashKind crash_kinds[] = {
    {"plain-64k", CREATE "top 2M"},
    /* The names of features, which qemu-img leaves out, fill the header. */
    {"tiny-16bit", CREATE "-o cluster_size=512 top 1M\n"
                          "printf '\\150\\003\\370\\127\\000\\000\\001\\200' | "
                          "dd of=top bs=1 seek=112 conv=notrunc status=none"},
    /* The refcount table has to grow: it counts 2 MiB. */
    {"tiny-64bit",
     CREATE "-o cluster_size=512,refcount_bits=64 top 1M\n" IO "-c 'write -P 7 0 600k'"},
    {"refcount-1bit", CREATE "-o cluster_size=1k,refcount_bits=1 top 1M"},
    {"version-2",
     CREATE "-o compat=0.10,cluster_size=4k top 1M\n" IO "-c 'write -P 3 100k 200k'"},
    {"overlay", "head -c 900000 /dev/zero | tr '\\0' b > base.raw\n" CREATE
                "-o cluster_size=4k -b base.raw -F raw top 1M\n" IO
                "-c 'write -P 4 300k 100k' -c 'write -z 500k 40k'"},
    {"overlay-version-2", "head -c 700000 /dev/zero | tr '\\0' c > base.raw\n" CREATE
                          "-o compat=0.10,cluster_size=2k -b base.raw -F raw top 1M\n" IO
                          "-c 'write -P 4 300k 100k'"},
    {"longer-base", "head -c 3000000 /dev/zero | tr '\\0' d > base.raw\n" CREATE
                    "-o cluster_size=8k -b base.raw -F raw top 700k"},
    {"snapshot", CREATE "-o cluster_size=4k top 1M\n" IO "-c 'write -P 5 0 600k'\n"
                        "qemu-img snapshot -c one top\n" IO "-c 'write -P 6 100k 100k'"},
    /* The first snapshot's tables keep flags that have no meaning there. */
    {"version-2-snapshot",
     CREATE "-o compat=0.10,cluster_size=4k top 1M\n" IO "-c 'write -P 5 0 600k'\n"
            "qemu-img snapshot -c one top\n" IO "-c 'write -P 6 100k 300k'\n"
            "qemu-img snapshot -c two top\nqemu-img snapshot -d two top"},
    {"two-snapshots",
     CREATE "-o cluster_size=512,refcount_bits=8 top 512k\n" IO "-c 'write -P 5 0 300k'\n"
            "qemu-img snapshot -c one top\n" IO "-c 'write -P 6 100k 100k'\n"
            "qemu-img snapshot -c two top"},
    {"compressed", "{ head -c 400000 /dev/zero | tr '\\0' e; seq 60000; } > raw\n"
                   "qemu-img convert -q -c -O qcow2 -o cluster_size=4k raw top"},
    {"compressed-snapshot",
     "seq 80000 > raw\n"
     "qemu-img convert -q -c -O qcow2 -o cluster_size=16k,compression_type=zstd raw "
     "top\n"
     "qemu-img snapshot -c one top"},
    {"extended", CREATE "-o cluster_size=16k,extended_l2=on top 1M\n" IO
                        "-c 'write -P 8 5k 100k' -c 'write -z 64k 9k'"},
    {"extended-overlay-snapshot",
     "head -c 900000 /dev/zero | tr '\\0' f > base.raw\n" CREATE
     "-o cluster_size=32k,extended_l2=on -b base.raw -F raw top 1M\n" IO
     "-c 'write -P 9 30k 100k' -c 'write -z 200k 60k'\n"
     "qemu-img snapshot -c one top\n" IO "-c 'write -P 10 40k 3k'"},
    {"zero-allocated", CREATE "-o cluster_size=4k,preallocation=metadata top 1M\n" IO
                              "-c 'write -P 11 0 1M' -c 'write -z 100k 500k'"},
    {"data-file",
     CREATE "-o cluster_size=4k,data_file=data.raw top 1M\n" IO
            "-c 'write -P 12 100k 100k'",
     .has_no_snapshots = true},
    {"data-file-raw",
     CREATE "-o cluster_size=512,data_file=data.raw,data_file_raw=on top 512k\n" IO
            "-c 'write -P 12 100k 100k'",
     .has_no_snapshots = true, .is_data_file_raw = true},
    /* They grow from almost nothing. */
    {"data-file-small", CREATE "-o cluster_size=2k,data_file=data.raw top 3k",
     .has_no_snapshots = true},
    {"data-file-raw-small",
     CREATE "-o cluster_size=64k,data_file=data.raw,data_file_raw=on top 512",
     .has_no_snapshots = true, .is_data_file_raw = true},
    {"data-file-overlay",
     "head -c 900000 /dev/zero | tr '\\0' i > base.raw\n" CREATE
     "-o cluster_size=4k,data_file=data.raw -b base.raw -F raw top 100k",
     .has_no_snapshots = true},
    {"small", CREATE "-o cluster_size=64k top 512"},
    {"dirty",
     CREATE "-o cluster_size=4k,lazy_refcounts=on top 1M\n" IO "-c 'write -P 13 0 300k'",
     .is_dirty = true},
    {"bitmaps",
     CREATE "top 1M\nqemu-img bitmap --add -g 4k top e\n" IO "-c 'write -P 5 0 100k'\n"
            "qemu-img bitmap --add --disable top d",
     .has_bitmaps = true},
    /* Tables of bitmaps that grow and shrink: an entry stands for 2 MiB. */
    {"bitmaps-tiny",
     CREATE "-o cluster_size=512 top 1M\nqemu-img bitmap --add -g 512 top e\n"
            "qemu-img bitmap --add -g 4k top e2\n" IO "-c 'write -P 5 0 600k'\n"
            "qemu-img bitmap --add -g 512 --disable top d",
     .has_bitmaps = true},
    {"bitmaps-snapshot",
     CREATE "-o cluster_size=4k top 1M\n" IO "-c 'write -P 5 0 600k'\n"
            "qemu-img snapshot -c one top\n" IO "-c 'write -P 6 100k 100k'\n"
            "qemu-img bitmap --add -g 512 top e\n"
            "qemu-img bitmap --add --disable top d",
     .has_bitmaps = true},
    {"qed",
     CREATE_QED "-o cluster_size=4k,table_size=2 top 2M\n" IO_QED
                "-c 'write -P 14 100k 300k' -c 'write -z 500k 40k'",
     .format = "qed", .has_no_snapshots = true},
    {"qed-empty", CREATE_QED "top 1M", .format = "qed", .has_no_snapshots = true},
    {"qed-overlay",
     "head -c 900000 /dev/zero | tr '\\0' g > base.raw\n" CREATE_QED
     "-o cluster_size=8k,table_size=2 -b base.raw -F raw top 1M\n" IO_QED
     "-c 'write -P 15 300k 100k' -c 'write -z 480k 40k'",
     .format = "qed", .has_no_snapshots = true},
    {"qed-longer-base",
     "head -c 3000000 /dev/zero | tr '\\0' h > base.raw\n" CREATE_QED
     "-o cluster_size=4k,table_size=16 -b base.raw -F raw top 700k",
     .format = "qed", .has_no_snapshots = true},
    /* Only the bit that QEMU leaves when it dies. */
    {"qed-need-check",
     CREATE_QED "-o cluster_size=4k,table_size=4 top 1M\n" IO_QED
                "-c 'write -P 16 0 300k'\n"
                "printf '\\002' | dd of=top bs=1 seek=16 conv=notrunc status=none\n"
                "truncate -s +20k top",
     .format = "qed", .has_no_snapshots = true},
    /* The IV counts guest sectors; that of LUKS host sectors. */
    {"aes", CREATE_AES " top 1M\n" IO_AES "-c 'write -P 17 30k 300k'",
     .is_encrypted = true},
    {"aes-extended-snapshot",
     CREATE_AES ",cluster_size=16k,extended_l2=on top 1M\n" IO_AES
                "-c 'write -P 18 5k 300k' -c 'write -z 64k 9k'\n"
                "qemu-img snapshot " SECRET "--image-opts -c one "
                "driver=qcow2,file.filename=top,encrypt.key-secret=s\n" IO_AES
                "-c 'write -P 19 40k 3k'",
     .is_encrypted = true},
    {"aes-data-file",
     CREATE_AES ",cluster_size=4k,data_file=data.raw top 500k\n" IO_AES
                "-c 'write -P 20 100k 100k'",
     .has_no_snapshots = true, .is_encrypted = true},
    {"luks",
     CREATE_LUKS("encrypt.cipher-alg=aes-128,cluster_size=4k", "top 1M") IO_AES
     "-c 'write -P 21 30k 300k'",
     .is_encrypted = true},
    {"luks-overlay-snapshot",
     "head -c 900000 /dev/zero | tr '\\0' j > base.raw\n" CREATE_LUKS(
         "encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,"
         "encrypt.ivgen-hash-alg=sha256,cluster_size=16k,extended_l2=on,"
         "backing_file=base.raw,backing_fmt=raw",
         "top 1M") IO_AES "-c 'write -P 22 5k 300k' -c 'write -z 64k 9k'\n"
                          "qemu-img snapshot " SECRET "--image-opts -c one "
                          "driver=qcow2,file.filename=top,encrypt.key-secret=s\n" IO_AES
                          "-c 'write -P 23 40k 3k'",
     .is_encrypted = true},
    {"luks-data-file",
     CREATE_LUKS("encrypt.cipher-alg=aes-128,cluster_size=4k,data_file=data.raw",
                 "top 500k") IO_AES "-c 'write -P 24 100k 100k'",
     .has_no_snapshots = true, .is_encrypted = true},
    {"raw", "truncate -s 1M top\nqemu-io -f raw top -c 'write -P 14 0 300k'",
     .format = "raw", .has_no_snapshots = true},
};

const unsigned crash_n_kinds = G_N_ELEMENTS(crash_kinds);
