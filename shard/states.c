/* SPDX-License-Identifier: MIT
 *
 * The legal moves of slots and shards.
 */
#include "shard/ring.h"

#define BIT(state) (1u << (state))

/* A slot is filled by the caller's gradients, or when its bucket starts by what was parked, shared or missing. */
static const unsigned slot_moves[] = {
    [SHERD__SLOT_EMPTY] = BIT(SHERD__SLOT_FILLING),
    [SHERD__SLOT_FILLING] = BIT(SHERD__SLOT_STARTED),
    [SHERD__SLOT_STARTED] = BIT(SHERD__SLOT_EMPTY),
};

/* Every micro-step but the last leaves a shard ACCUMULATING; with one micro-step it is SUMMED at once. A discarded
 * micro-step makes sums void. */
static const unsigned shard_moves[] = {
    [SHERD__CLEAN] = BIT(SHERD__ACCUMULATING) | BIT(SHERD__SUMMED),
    [SHERD__ACCUMULATING] = BIT(SHERD__ACCUMULATING) | BIT(SHERD__SUMMED) | BIT(SHERD__CLEAN),
    [SHERD__SUMMED] = BIT(SHERD__STEPPING) | BIT(SHERD__CLEAN),
    [SHERD__STEPPING] = BIT(SHERD__STEPPED),
    [SHERD__STEPPED] = BIT(SHERD__CLEAN),
};

int sherd__slot_move_legal(sherd__slot_state from, sherd__slot_state to)
{
    return (unsigned)from <= SHERD__SLOT_STARTED && (unsigned)to <= SHERD__SLOT_STARTED &&
           (slot_moves[from] & BIT(to)) != 0;
}

int sherd__shard_move_legal(sherd__shard_state from, sherd__shard_state to)
{
    return (unsigned)from <= SHERD__STEPPED && (unsigned)to <= SHERD__STEPPED && (shard_moves[from] & BIT(to)) != 0;
}
