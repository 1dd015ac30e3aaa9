/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image/chain/backing-name.c: the meaning of a stored name. Spec: qcow2 section 9. */
#include "image/chain/backing-name.h"
#include "test-util.h"

typedef struct {
    const char *name;
    const char *path;   /* NULL: refused */
    const char *format; /* NULL: not given */
    const char *error;
} Row;

#define GRAPH(what)                                                                      \
    "backing file name json:\xe2\x80\xa6: " what                                         \
    " (only a format over a plain file can be opened; store a plain name with qemu-img " \
    "rebase -u)"
#define PROTOCOL(shown)                                                                  \
    "backing file name \"" shown                                                         \
    "\": begins with a protocol, and only local files can be opened (say which file it " \
    "is with -o backing_map='" shown                                                     \
    "'=FILE; a local name with a colon needs ./ before it: qemu-img rebase -u)"

static const Row rows[] = {
    {"base.qcow2", "base.qcow2", NULL, NULL},
    {"/abs/base.qcow2", "/abs/base.qcow2", NULL, NULL},
    {"../up", "../up", NULL, NULL},
    {"a b \xc3\xbc\xff", "a b \xc3\xbc\xff", NULL, NULL},
    {"./a:b", "./a:b", NULL, NULL},
    {"dir/a:b", "dir/a:b", NULL, NULL},
    {"/x:y", "/x:y", NULL, NULL},
    {"file:base", "base", NULL, NULL},
    {"file:/abs", "/abs", NULL, NULL},
    {"file:nbd:x", "nbd:x", NULL, NULL},
    {"files:x", NULL, NULL, PROTOCOL("files:x")},
    {"nbd:host:10809", NULL, NULL, PROTOCOL("nbd:host:10809")},
    {"https://host/x", NULL, NULL, PROTOCOL("https://host/x")},
    {"fo:o.raw", NULL, NULL, PROTOCOL("fo:o.raw")},
    {":", NULL, NULL, PROTOCOL(":")},
    {"e\033[31m:\n", NULL, NULL, PROTOCOL("e\\033[31m:\\n")},
    {"JSON:{}", NULL, NULL, PROTOCOL("JSON:{}")},
    {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"b\"}}", "b",
     "qcow2", NULL},
    {"json:{\"driver\":\"raw\",\"file\":{\"filename\":\"/x:y\"}}", "/x:y", "raw", NULL},
    {"json:{\"driver\":\"qcow2\",\"file.driver\":\"file\",\"file.filename\":\"b\"}", "b",
     "qcow2", NULL},
    {"json:{\"file.filename\":\"b\"}", "b", NULL, NULL},
    {"json:{\"driver\":\"file\",\"filename\":\"b\"}", "b", "raw", NULL},
    {"json:{\"filename\":\"b\"}", "b", NULL, NULL},
    {"json:{\"node-name\":\"n\",\"filename\":\"b\"}", "b", NULL, NULL},
    {"json:{\"driver\":\"qcow2\",\"read-only\":true,\"discard\":\"unmap\",\"cache\":{"
     "\"direct\":true},\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/x\","
     "\"aio\":\"native\",\"locking\":\"off\",\"auto-read-only\":true}}",
     "/dev/x", "qcow2", NULL},
    {"json:{\"driver\":\"raw\",\"file.filename\":\"b\",\"file.aio\":\"io_uring\","
     "\"file.cache.direct\":true}",
     "b", "raw", NULL},
    {"json:{\"driver\":\"raw\",\"file.filename\":\"b\",\"file.offset\":1}", NULL, NULL,
     GRAPH("it has the member \"file.offset\"")},
    {"json:", NULL, NULL, GRAPH("it cannot be parsed")},
    {"json:{", NULL, NULL, GRAPH("it cannot be parsed")},
    {"json:[]", NULL, NULL, GRAPH("it cannot be parsed")},
    {"json:\"b\"", NULL, NULL, GRAPH("it cannot be parsed")},
    {"json:{}", NULL, NULL, GRAPH("it names no file")},
    {"json:{\"filename\":\"\"}", NULL, NULL, GRAPH("it names no file")},
    {"json:{\"driver\":\"qcow2\"}", NULL, NULL, GRAPH("it names no file")},
    {"json:{\"driver\":\"nbd\",\"filename\":\"b\"}", NULL, NULL,
     GRAPH("its file is not a plain one")},
    {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"https\",\"filename\":\"b\"}"
     "}",
     NULL, NULL, GRAPH("its file is not a plain one")},
    {"json:{\"driver\":\"qcow2\",\"file\":\"node\"}", NULL, NULL,
     GRAPH("its file is a reference")},
    {"json:{\"driver\":\"qcow2\",\"file\":null}", NULL, NULL,
     GRAPH("its file is a reference")},
    {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"qcow2\",\"file\":{}}}", NULL,
     NULL, GRAPH("its file has the member \"file\"")},
    {"json:{\"driver\":\"raw\",\"offset\":512,\"file\":{\"filename\":\"b\"}}", NULL, NULL,
     GRAPH("it has the member \"offset\"")},
    {"json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":{\"filename\":\"b\"}}", NULL,
     NULL, GRAPH("it has the member \"backing\"")},
    {"json:{\"driver\":1,\"filename\":\"b\"}", NULL, NULL,
     GRAPH("a driver or file name is no text")},
    {"json:{\"filename\":[]}", NULL, NULL, GRAPH("a driver or file name is no text")},
    {"json:{\"file\":{\"filename\":null}}", NULL, NULL,
     GRAPH("a driver or file name is no text")},
};

static void
test_rows(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        const Row *row = &rows[i];
        g_autofree char *path = NULL;
        g_autofree char *format = NULL;
        g_autofree char *shown = g_strescape(row->name, NULL);
        GError *error = NULL;
        bool is_taken = backing_name_parse(row->name, &path, &format, &error);

        g_test_message("%s", shown);
        g_assert_cmpint(is_taken, ==, row->path != NULL);
        g_assert_cmpstr(path, ==, row->path);
        g_assert_cmpstr(format, ==, row->format);
        if (row->error)
            test_util_check_error(&error, QIMG_ERROR_REFUSED, row->error);
        g_assert_no_error(error);
    }
}

/* The deepest nesting in a name of 1023 bytes. */
static void
test_deep(void)
{
    static const char open[] = {'[', '{'};

    for (size_t i = 0; i < sizeof open; i++) {
        char name[1024] = "json:";
        g_autofree char *path = NULL;
        g_autofree char *format = NULL;
        GError *error = NULL;

        memset(name + 5, open[i], 1018);
        g_assert_false(backing_name_parse(name, &path, &format, &error));
        test_util_check_error(&error, QIMG_ERROR_REFUSED, GRAPH("it cannot be parsed"));
    }
}

int
main(int argc, char **argv)
{
    test_util_init(&argc, &argv);
    g_test_add_func("/backing-name/table", test_rows);
    g_test_add_func("/backing-name/deep", test_deep);
    return g_test_run();
}
