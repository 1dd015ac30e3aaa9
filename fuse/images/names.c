/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Encodes names; a pure function of the images' content. */
#include "images/names.h"

#include <limits.h>
#include <string.h>

char *
names_of_image(const char *path)
{
    static const char *const suffixes[] = {".qcow2", ".qcow", ".qed", ".img", ".raw"};
    g_autofree char *base = g_path_get_basename(path);

    for (size_t i = 0; i < G_N_ELEMENTS(suffixes); i++) {
        size_t n = strlen(base), n_suffix = strlen(suffixes[i]);

        if (n > n_suffix && strcmp(base + n - n_suffix, suffixes[i]) == 0) {
            base[n - n_suffix] = '\0';
            break;
        }
    }
    return g_steal_pointer(&base);
}

bool
names_has_suffix(const char *file_name)
{
    g_autofree char *name = names_of_image(file_name);

    return strcmp(name, file_name) != 0;
}

bool
names_is_reserved(const char *name)
{
    static const char *const reserved[] = {".", "..", STATS_NAME, ERRORS_NAME, NULL};

    return g_strv_contains(reserved, name);
}

/* More than the bitmaps of a chain. */
#define NUMBER_STEP (1u << 24)

/* Appends @n_bytes of @text to @out, encoded, up to @max_bytes. Returns whether all of it
 * fit. */
static bool
append_encoded(GString *out, const char *text, size_t n_bytes, size_t max_bytes)
{
    size_t at = 0;

    while (at < n_bytes) {
        gunichar c = g_utf8_get_char_validated(text + at, (gssize)(n_bytes - at));
        bool is_valid = c != (gunichar)-1 && c != (gunichar)-2 && c != 0;
        size_t n = is_valid ? (size_t)g_unichar_to_utf8(c, NULL) : 1;
        bool is_plain = is_valid && !g_unichar_iscntrl(c) && c != '/' && c != '%' &&
                        !(c == '.' && out->len == 0);

        if (out->len + (is_plain ? n : 3 * n) > max_bytes)
            return false;
        for (size_t i = 0; i < n; i++) {
            if (is_plain)
                g_string_append_c(out, text[at + i]);
            else
                g_string_append_printf(out, "%%%02X", (unsigned char)text[at + i]);
        }
        at += n;
    }
    return true;
}

/* "@" and the ID, encoded. */
static char *
id_suffix(const QimgSnapshot *s)
{
    /* Half a file name suffices for any ID made by a program. */
    GString *suffix = g_string_new("@");

    (void)append_encoded(suffix, s->id, s->id_bytes, NAME_MAX / 2);
    return g_string_free(suffix, FALSE);
}

/* @text as a file name that is no key of @taken: encoded, with @ending. An empty or
 * repeated name, and one too long for a file, which is cut, get @distinction before that;
 * if the result is repeated, too, the numbers @number, @number + @step, … distinguish
 * them: each taken one costs one more step. Free with g_free. */
static char *
unique_name(const char *text, size_t n_bytes, const char *distinction, const char *ending,
            guint64 number, guint64 step, GHashTable *taken)
{
    g_autoptr(GString) name = g_string_new(NULL);
    size_t max_bytes = NAME_MAX - strlen(ending);
    bool is_whole = append_encoded(name, text, n_bytes, max_bytes);
    bool is_empty = name->len == 0;
    gsize base_bytes;

    g_string_append(name, ending);
    if (is_whole && !is_empty && !g_hash_table_contains(taken, name->str))
        return g_strdup(name->str);
    g_string_truncate(name, 0);
    (void)append_encoded(name, text, n_bytes, max_bytes - strlen(distinction));
    g_string_append(name, distinction);
    base_bytes = MIN(name->len, (gsize)(max_bytes - 21));
    g_string_append(name, ending);
    for (; g_hash_table_contains(taken, name->str); number += step) {
        g_string_truncate(name, base_bytes);
        g_string_append_printf(name, "@%" G_GUINT64_FORMAT "%s", number, ending);
    }
    return g_strdup(name->str);
}

/* A damaged image may also repeat IDs: then the place in the table distinguishes them. */
static char *
name_of_snapshot(const QimgSnapshot *s, unsigned index, unsigned n_snapshots,
                 GHashTable *taken)
{
    g_autofree char *suffix = id_suffix(s);

    return unique_name(s->name, s->name_bytes, suffix, "", (guint64)index + 1,
                       n_snapshots, taken);
}

GPtrArray *
names_of_snapshots(const QimgSnapshots *list)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) taken = g_hash_table_new(g_str_hash, g_str_equal);
    unsigned n_snapshots = qimg_snapshots_get_n(list);

    for (unsigned i = 0; i < n_snapshots; i++) {
        char *name = name_of_snapshot(qimg_snapshots_get(list, i), i, n_snapshots, taken);

        g_ptr_array_add(names, name);
        g_hash_table_add(taken, name);
    }
    return names;
}

char *
names_of_bitmap(const QimgBitmap *bitmap, unsigned layer, unsigned index,
                GHashTable *taken)
{
    g_autofree char *distinction = g_strdup_printf("@%u", layer);

    return unique_name(bitmap->name, bitmap->name_bytes, distinction, BITMAP_SUFFIX,
                       index, NUMBER_STEP, taken);
}

char *
names_to_snapshot(const char *file_name)
{
    g_autofree char *name = g_uri_unescape_string(file_name, NULL);
    g_autoptr(GString) encoded = g_string_new(NULL);

    if (!name || !append_encoded(encoded, name, strlen(name), NAME_MAX) ||
        strcmp(encoded->str, file_name) != 0)
        return NULL;
    return g_steal_pointer(&name);
}
