/* SPDX-License-Identifier: MIT
 *
 * A caller's sherd_config may be older and shorter than ours: these copy what both have.
 */
#ifndef SHERD_CONFIG_CONFIG_H
#define SHERD_CONFIG_CONFIG_H

#include "sherd/sherd.h"

/* *to: defaults, overlaid with the first from->size bytes of *from. */
void sherd__config_load(sherd_config *to, const sherd_config *from);
/* Writes the first to->size bytes of *from, and leaves to->size. */
void sherd__config_save(sherd_config *to, const sherd_config *from);

#endif
