/* SPDX-License-Identifier: MIT
 *
 * What the manifest's writer and reader agree on beyond the keys: the checksum. It is the XXH3-128 of the whole text
 * with the checksum's own 32 digits taken as zeros; it stands first, at a fixed place, so it is found without parsing.
 */
#ifndef SHERD_STORE_MANIFEST_TEXT_H
#define SHERD_STORE_MANIFEST_TEXT_H

#include "store/manifest.h"

#define SHERD__MANIFEST_HEAD "{\n \"checksum\": \""
#define SHERD__MANIFEST_ZEROS "00000000000000000000000000000000"
#define SHERD__MANIFEST_SUM_AT (sizeof SHERD__MANIFEST_HEAD - 1)

#endif
