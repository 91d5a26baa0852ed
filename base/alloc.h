/* SPDX-License-Identifier: MIT
 *
 * Metadata memory through the injected allocator: zeroed, aligned to 64 bytes, freed with its size.
 */
#ifndef SHERD_BASE_ALLOC_H
#define SHERD_BASE_ALLOC_H

#include "base/status.h"

/* NULL when the allocator has none, or when count × bytes wraps. count or bytes of 0 gives a block of 64 bytes. */
void *sherd__alloc(const sherd_allocator *allocator, size_t count, size_t bytes);
/* `block` may be NULL. count and bytes as given to sherd__alloc. */
void sherd__free(const sherd_allocator *allocator, void *block, size_t count, size_t bytes);
/* malloc and free */
extern const sherd_allocator sherd__default_allocator;
/* `allocator` with NULL members replaced by malloc and free. */
sherd_allocator sherd__allocator_or_default(const sherd_allocator *allocator);

#endif
