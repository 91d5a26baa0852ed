/* SPDX-License-Identifier: MIT
 *
 * The optimizers there are. A new one brings its own file pair and a line in each of the first two lists; the table, the reference
 * twin and every kernel are instantiated from them.
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
#include "optim/muon.h"
#include "optim/optim.h"
#include "optim/sgd.h"

/* Those that are one arithmetic over single elements, whatever the parameter. */
#define SHERD__PLAIN_MAP(X)                                                                                            \
    X(ADAMW, adamw, 2)                                                                                                 \
    X(ADAM, adam, 2)                                                                                                   \
    X(SGD, sgd, 1)                                                                                                     \
    X(LION, lion, 1)                                                                                                   \
    X(ADAGRAD, adagrad, 1)                                                                                             \
    X(LAMB, lamb, 2)

#define SHERD__OPTIM_MAP(X) SHERD__PLAIN_MAP(X) X(MUON, muon, 2)

/* What kernels are instantiated from: every arithmetic there is over single elements. Most optimizers are one rule of their own
 * name; Muon treats its matrices by two (optim/muon.h) and all other parameters as AdamW.
 *
 * X(RULE, name, moments): SHERD__RULE_<RULE>, sherd__<name>_element, and how many moments that reads and writes. */
#define SHERD__RULE_MAP(X) SHERD__PLAIN_MAP(X) X(MUON_DIRECT, muon_direct, 1) X(MUON_APPLY, muon_apply, 0)

typedef enum sherd__rule {
#define X(RULE, name, moments) SHERD__RULE_##RULE,
    SHERD__RULE_MAP(X)
#undef X
} sherd__rule;

/* To be decided when a kernel is compiled: does a rule take the scalars of matrices; a sum that is to be multiplied by the step's
 * factor, or its input as it stands; and what stood in the master's place? */
#define SHERD__RULE_OF_MATRIX(rule) ((rule) >= SHERD__RULE_MUON_DIRECT)
#define SHERD__RULE_TAKES_SUMS(rule) ((rule) != SHERD__RULE_MUON_APPLY)
#define SHERD__RULE_READS_MASTER(rule) ((rule) != SHERD__RULE_MUON_DIRECT)

/* Which rule a part of an optimizer is. */
static inline sherd__rule sherd__rule_of(sherd_optimizer kind, sherd__part part)
{
    if (part != SHERD__PART_WHOLE) {
        return part == SHERD__PART_DIRECT ? SHERD__RULE_MUON_DIRECT : SHERD__RULE_MUON_APPLY;
    }
    return kind == SHERD_MUON ? SHERD__RULE_ADAMW : (sherd__rule)kind;
}

/* Of the optimizers, the ones that want a ratio for each whole parameter (optim/trust.h), which sherd__<name>_direction is for; and
 * whether a rule is one of them, to be decided when a kernel is compiled. */
#define SHERD__OPTIM_TRUST_MAP(X) X(LAMB, lamb, 2)
#define SHERD__RULE_TRUSTS(rule) ((rule) == SHERD__RULE_LAMB)

#endif
