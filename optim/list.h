/* SPDX-License-Identifier: MIT
 *
 * The optimizers there are. A new one brings its own file pair and one line here; the table, the reference twin and
 * every kernel are instantiated from this list.
 *
 * X(KIND, name, moments): sherd_optimizer's constant without SHERD_, the stem of sherd__<name> (table row,
 * optim/<file>.c) and of sherd__<name>_element (inline arithmetic, optim/<file>.h), and how many fp32 moments it
 * keeps.
 */
#ifndef SHERD_OPTIM_LIST_H
#define SHERD_OPTIM_LIST_H

#include "optim/adagrad.h"
#include "optim/adamw.h"
#include "optim/lamb.h"
#include "optim/lion.h"
#include "optim/sgd.h"

#define SHERD__OPTIM_MAP(X)                                                                                            \
    X(ADAMW, adamw, 2)                                                                                                 \
    X(ADAM, adam, 2)                                                                                                   \
    X(SGD, sgd, 1)                                                                                                     \
    X(LION, lion, 1)                                                                                                   \
    X(ADAGRAD, adagrad, 1)                                                                                             \
    X(LAMB, lamb, 2)

/* Of these, the ones that want a ratio for each whole parameter (optim/trust.h), which sherd__<name>_direction is for; and
 * whether a constant is one of them, to be decided when a kernel is compiled. */
#define SHERD__OPTIM_TRUST_MAP(X) X(LAMB, lamb, 2)
#define SHERD__OPTIM_TRUSTS(kind) ((kind) == SHERD_LAMB)

#endif
