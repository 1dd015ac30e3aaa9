/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Hashes as the headers of encrypted disks name them. */
#pragma once

#include "crypt/libcrypto.h"

/* The hash @name, case sensitive; static. NULL: unknown, or libcrypto lacks it. */
const EVP_MD *qimg_hash_find(const char *name);
