/* SPDX-License-Identifier: MIT */
#include "base/cycle.h"

#include <math.h>

static double first_of(const sherd_one_cycle *cycle)
{
    return cycle->first_step_size > 0 ? (double)cycle->first_step_size : 1.0;
}

static double second_of(const sherd_one_cycle *cycle)
{
    return cycle->second_step_size > 0 ? (double)cycle->second_step_size : first_of(cycle);
}

/* Stairs are counted on integers: the share in floating point may lie just under a stair that was reached. */
static double on_stairs(const sherd_one_cycle *cycle, double it, double stairs)
{
    double first = first_of(cycle), second = second_of(cycle), at = fmod(it, first + second);

    if (at <= first)
        return floor(at * stairs / first) / stairs;
    return floor((first + second - at) * stairs / second) / stairs;
}

/* 0 at both ends of the cycle, 1 at its top. */
static double share(const sherd_one_cycle *cycle, double it)
{
    double total = first_of(cycle) + second_of(cycle), top = first_of(cycle) / total;
    double x = 1.0 + it / total - floor(1.0 + it / total);
    int64_t stairs = cycle->first_stair_count;

    if (x > top && cycle->second_stair_count >= 0)
        stairs = cycle->second_stair_count;
    if (stairs > 0)
        return on_stairs(cycle, it, (double)stairs);
    return x <= top ? x / top : (x - 1.0) / (top - 1.0);
}

/* Updates since the cycle's end in units of decay_step_size; 0: within it, or nothing decays. */
static double decayed(const sherd_one_cycle *cycle, int64_t it)
{
    double past = (double)it - (first_of(cycle) + second_of(cycle));

    return past > 0 && cycle->decay_step_size > 0 ? past / (double)cycle->decay_step_size : 0.0;
}

static int is_over(const sherd_one_cycle *cycle, int64_t it)
{
    return (double)it > first_of(cycle) + second_of(cycle);
}

double sherd__cycle_lr(const sherd_one_cycle *cycle, int64_t it)
{
    if (is_over(cycle, it))
        return cycle->min_lr / (1.0 + cycle->decay_lr_rate * decayed(cycle, it));
    return cycle->min_lr + (cycle->max_lr - cycle->min_lr) * share(cycle, (double)it);
}

double sherd__cycle_momentum(const sherd_one_cycle *cycle, int64_t it)
{
    if (it == 0)
        return cycle->min_mom;
    if (is_over(cycle, it))
        return cycle->max_mom * (1.0 + cycle->decay_mom_rate * decayed(cycle, it));
    return cycle->max_mom - (cycle->max_mom - cycle->min_mom) * share(cycle, (double)it);
}
