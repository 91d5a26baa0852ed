/* SPDX-License-Identifier: MIT
 *
 * Making an arena, in the order in which each step needs the one before: address space (with a guard page on either
 * side, which also keeps the kernel from merging two arenas into one mapping), policy, pages, page lock, the device's
 * registration. Undone in reverse.
 */
#include "host/arena.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/text.h"
#include "host/arena_pages.h"
#include "host/meminfo.h"
#include "host/numa.h"

#define ALIGN_BYTES (UINT64_C(2) << 20) /* where a transparent huge page may begin */

struct sherd__arena {
    sherd_allocator allocator;
    char name[64];
    uint64_t bytes;
    char *base;
    uint64_t mapped_bytes, page_bytes;
    void *reserved; /* the address space with its guards */
    uint64_t reserved_bytes;
    int32_t node;
    int32_t huge_reserved; /* 1: in reserved huge pages */
    int32_t bound;
    uint64_t locked_bytes, pinned_bytes;
    sherd__arena_hook hook;
    char fallback[512];
};

static void note(sherd__arena *arena, const char *format, ...) SHERD__PRINTF(2, 3);

static void note(sherd__arena *arena, const char *format, ...)
{
    size_t used = strlen(arena->fallback);
    va_list args;
    if (used > 0 && used + 2 < sizeof arena->fallback)
        used += (size_t)snprintf(arena->fallback + used, sizeof arena->fallback - used, "; ");
    va_start(args, format);
    vsnprintf(arena->fallback + used, sizeof arena->fallback - used, format, args);
    va_end(args);
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

/* --------------------------------------------------------------------------------------------------------------- space
 */

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

/* Reserved huge pages are promised by the machine, not by the node: without the second look another node's would come.
 */
static int map_reserved_huge(sherd__arena *arena)
{
    uint64_t page = sherd__meminfo_huge_page();
    if (page == 0 || arena->bytes < page)
        return 0;
    uint64_t bytes = round_up(arena->bytes, page);
    if (sherd__meminfo_huge_free(arena->node) < bytes)
        return 0;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (base == MAP_FAILED)
        return 0;
    arena->base = arena->reserved = base;
    arena->mapped_bytes = arena->reserved_bytes = bytes;
    arena->page_bytes = page;
    arena->huge_reserved = 1;
    return 1;
}

static sherd_status map_small(sherd__arena *arena, sherd_error *err)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t bytes = round_up(arena->bytes, page), align = bytes >= ALIGN_BYTES ? ALIGN_BYTES : page;
    uint64_t total = bytes + align + 2 * page;
    void *space = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED)
        return sherd__fail(err, SHERD_ENOMEM, "arena '%s': no address space for %.1f MiB: %s", arena->name, mib(bytes),
                           strerror(errno));
    arena->reserved = space;
    arena->reserved_bytes = total;
    arena->base = (char *)(uintptr_t)round_up((uint64_t)(uintptr_t)space + page, align);
    arena->mapped_bytes = bytes;
    arena->page_bytes = page;
    if (mprotect(arena->base, bytes, PROT_READ | PROT_WRITE) != 0)
        return sherd__fail(err, SHERD_ENOMEM, "arena '%s': no memory for %.1f MiB: %s", arena->name, mib(bytes),
                           strerror(errno));
    return SHERD_OK;
}

static void want_transparent(sherd__arena *arena)
{
    if (madvise(arena->base, arena->mapped_bytes, MADV_HUGEPAGE) != 0)
        note(arena, "huge pages: none reserved, and transparent ones were refused (%s)", strerror(errno));
}

static sherd_status map_space(sherd__arena *arena, sherd__arena_want huge, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    if (huge == SHERD__ARENA_NEVER || !map_reserved_huge(arena)) {
        if (huge == SHERD__ARENA_MUST)
            return sherd__fail(err, SHERD_ENOMEM,
                               "arena '%s': %.1f MiB in reserved huge pages are wanted, but %.1f MiB are free: "
                               "reserve more (vm.nr_hugepages, or the node's nr_hugepages)",
                               arena->name, mib(arena->bytes), mib(sherd__meminfo_huge_free(arena->node)));
        status = map_small(arena, err);
        if (status == SHERD_OK && huge == SHERD__ARENA_TRY)
            want_transparent(arena);
        else if (status == SHERD_OK)
            (void)madvise(arena->base, arena->mapped_bytes, MADV_NOHUGEPAGE);
    }
    if (status == SHERD_OK && (madvise(arena->base, arena->mapped_bytes, MADV_DONTFORK) != 0 ||
                               madvise(arena->base, arena->mapped_bytes, MADV_DONTDUMP) != 0))
        note(arena, "forks or dumps may include it (%s)", strerror(errno));
    return status;
}

/* --------------------------------------------------------------------------------------------------------------- pages
 */

/* Says no before the kernel's out-of-memory killer would. What is free may change meanwhile: the count afterwards is
 * the truth. */
static sherd_status check_room(const sherd__arena *arena, sherd__arena_want bind, sherd_error *err)
{
    int32_t strict = arena->node >= 0 && bind == SHERD__ARENA_MUST;
    uint64_t there = sherd__meminfo_available(strict ? arena->node : -1);
    if (arena->huge_reserved || there >= arena->mapped_bytes)
        return SHERD_OK;
    if (strict)
        return sherd__fail(err, SHERD_ENOMEM,
                           "arena '%s': %.1f MiB on node %d, which has %.1f MiB to give: free memory there, "
                           "offload less, or use more ranks",
                           arena->name, mib(arena->mapped_bytes), arena->node, mib(there));
    return sherd__fail(err, SHERD_ENOMEM,
                       "arena '%s': %.1f MiB, but the machine has %.1f MiB to give: free memory, offload "
                       "less, or use more ranks",
                       arena->name, mib(arena->mapped_bytes), mib(there));
}

static sherd_status set_policy(sherd__arena *arena, sherd__arena_want bind, sherd_error *err)
{
    if (arena->node < 0 || bind == SHERD__ARENA_NEVER)
        return SHERD_OK;
    const char *missing = sherd__numa_missing();
    int error = missing ? ENOSYS : sherd__numa_prefer(arena->base, arena->mapped_bytes, arena->node);
    arena->bound = error == 0;
    if (error == 0)
        return SHERD_OK;
    const char *why = missing ? missing : strerror(error);
    if (bind == SHERD__ARENA_MUST)
        return sherd__fail(err, SHERD_ESYSTEM,
                           "arena '%s' cannot be bound to node %d: %s; check the node's number, and in a "
                           "container allow memory policies (CAP_SYS_NICE)",
                           arena->name, arena->node, why);
    note(arena, "not bound to node %d (%s): pages lie where they were first touched", arena->node, why);
    return SHERD_OK;
}

static sherd__pages pages_of(const sherd__arena *arena)
{
    return (sherd__pages){.base = arena->base,
                          .bytes = arena->mapped_bytes,
                          .page_bytes = arena->page_bytes,
                          .node = arena->node,
                          .gather = arena->bound};
}

static sherd_status populate(sherd__arena *arena, sherd__arena_want bind, sherd__team *team, sherd_error *err)
{
    sherd__pages pages = pages_of(arena);
    sherd__pages_count count;
    int error = sherd__pages_populate(&pages, team, &count);
    if (error != 0)
        return sherd__fail(err, SHERD_ENOMEM, "arena '%s': its %.1f MiB could not be brought into memory: %s",
                           arena->name, mib(arena->mapped_bytes), strerror(error));
    if (count.error != 0 && arena->bound && bind == SHERD__ARENA_MUST)
        return sherd__fail(err, SHERD_ESYSTEM,
                           "arena '%s': whether its pages lie on node %d cannot be told: %s; in a container "
                           "allow move_pages (CAP_SYS_NICE)",
                           arena->name, arena->node, strerror(count.error));
    if (count.elsewhere == 0)
        return SHERD_OK;
    if (bind == SHERD__ARENA_MUST)
        return sherd__fail(err, SHERD_ENOMEM,
                           "arena '%s': %.1f of %.1f MiB came to lie off node %d, which is full: free memory "
                           "there, offload less, or use more ranks",
                           arena->name, mib(count.elsewhere), mib(arena->mapped_bytes), arena->node);
    note(arena, "%.1f of %.1f MiB lie off node %d", mib(count.elsewhere), mib(arena->mapped_bytes), arena->node);
    return SHERD_OK;
}

/* ---------------------------------------------------------------------------------------------------------------- lock
 */

static sherd_status refuse_lock(sherd__arena *arena, sherd__arena_want lock, int error, sherd_error *err)
{
    struct rlimit limit = {0, 0};
    char text[320];
    (void)getrlimit(RLIMIT_MEMLOCK, &limit);
    snprintf(text, sizeof text,
             "%.1f MiB could not be page-locked (%s): the limit (RLIMIT_MEMLOCK) is %.1f MiB, of which %.1f are used: "
             "raise it "
             "(ulimit -l unlimited; LimitMEMLOCK=infinity for a service; --ulimit memlock=-1 for a container)",
             mib(arena->mapped_bytes), strerror(error), mib(limit.rlim_cur), mib(sherd__meminfo_locked()));
    if (lock == SHERD__ARENA_MUST)
        return sherd__fail(err, SHERD_ESYSTEM, "arena '%s': %s", arena->name, text);
    note(arena, "%s", text);
    return SHERD_OK;
}

static sherd_status lock_pages(sherd__arena *arena, sherd__arena_want lock, sherd_error *err)
{
    if (lock == SHERD__ARENA_NEVER)
        return SHERD_OK;
    if (!arena->huge_reserved && mlock(arena->base, arena->mapped_bytes) != 0)
        return refuse_lock(arena, lock, errno, err);
    arena->locked_bytes = arena->mapped_bytes; /* reserved huge pages never leave */
    return SHERD_OK;
}

static sherd_status pin_pages(sherd__arena *arena, const sherd__arena_hook *hook, sherd_error *err)
{
    if (!hook || !hook->pin)
        return SHERD_OK;
    sherd_status status = hook->pin(hook->ctx, arena->base, arena->mapped_bytes, err);
    if (status != SHERD_OK)
        return status;
    arena->hook = *hook;
    arena->pinned_bytes = arena->mapped_bytes;
    return SHERD_OK;
}

/* -------------------------------------------------------------------------------------------------------- life and end
 */

static sherd_status check_options(const sherd__arena_options *options, sherd_error *err)
{
    const char *name = options->name ? options->name : "";
    if (options->bytes == 0 || options->bytes > UINT64_C(1) << 56)
        return sherd__fail(err, SHERD_EINVAL, "arena '%s' of %" PRIu64 " bytes: at least one, and not more than fit",
                           name, options->bytes);
    if (options->node < -1)
        return sherd__fail(err, SHERD_EINVAL, "arena '%s' on node %d: a node's number, or -1 for any", name,
                           options->node);
    return SHERD_OK;
}

static sherd_status build(sherd__arena *arena, const sherd__arena_options *options, sherd_error *err)
{
    sherd_status status = map_space(arena, options->huge, err);
    if (status == SHERD_OK)
        status = check_room(arena, options->bind, err);
    if (status == SHERD_OK)
        status = set_policy(arena, options->bind, err);
    if (status == SHERD_OK)
        status = populate(arena, options->bind, options->team, err);
    if (status == SHERD_OK)
        status = lock_pages(arena, options->lock, err);
    if (status == SHERD_OK)
        status = pin_pages(arena, options->hook, err);
    return status;
}

sherd_status sherd__arena_create(const sherd__arena_options *options, sherd__arena **out, sherd_error *err)
{
    sherd_status status = check_options(options, err);
    if (status != SHERD_OK)
        return status;
    sherd_allocator memory = sherd__allocator_or_default(options->allocator);
    sherd__arena *arena = sherd__alloc(&memory, 1, sizeof *arena);
    if (!arena)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the record of an arena");
    arena->allocator = memory;
    arena->bytes = options->bytes;
    arena->node = options->node;
    snprintf(arena->name, sizeof arena->name, "%s", options->name ? options->name : "");
    status = build(arena, options, err);
    if (status != SHERD_OK) {
        sherd__arena_destroy(arena);
        return status;
    }
    *out = arena;
    return SHERD_OK;
}

void sherd__arena_destroy(sherd__arena *arena)
{
    if (!arena)
        return;
    if (arena->pinned_bytes > 0 && arena->hook.unpin)
        arena->hook.unpin(arena->hook.ctx, arena->base, arena->mapped_bytes);
    if (arena->locked_bytes > 0 && !arena->huge_reserved)
        (void)munlock(arena->base, arena->mapped_bytes);
    if (arena->reserved)
        (void)munmap(arena->reserved, arena->reserved_bytes);
    sherd_allocator memory = arena->allocator;
    sherd__free(&memory, arena, 1, sizeof *arena);
}

void *sherd__arena_base(const sherd__arena *arena)
{
    return arena->base;
}
uint64_t sherd__arena_bytes(const sherd__arena *arena)
{
    return arena->bytes;
}

/* -------------------------------------------------------------------------------------------------------------- report
 */

sherd_status sherd__arena_inspect(const sherd__arena *arena, sherd__arena_report *report, sherd_error *err)
{
    sherd__pages pages = pages_of(arena);
    sherd__pages_count count;
    sherd__meminfo_mapping mapping;
    memset(report, 0, sizeof *report);
    sherd__pages_count_all(&pages, &count);
    if (!sherd__meminfo_mapping_of(arena->base, &mapping))
        return sherd__fail(err, SHERD_ESYSTEM,
                           "arena '%s': /proc/self/smaps does not tell of its mapping: is /proc mounted?", arena->name);
    report->name = arena->name;
    report->node = arena->node;
    report->bytes = arena->bytes;
    report->mapped_bytes = arena->mapped_bytes;
    report->page_bytes = arena->page_bytes;
    report->there_bytes = count.there;
    report->elsewhere_bytes = count.elsewhere;
    report->absent_bytes = count.absent;
    report->counted = count.error == 0;
    report->huge_bytes = arena->huge_reserved ? arena->mapped_bytes : mapping.anon_huge_bytes;
    report->locked_bytes = arena->locked_bytes;
    report->pinned_bytes = arena->pinned_bytes;
    memcpy(report->on_node, count.on_node, sizeof report->on_node);
    memcpy(report->fallback, arena->fallback, sizeof report->fallback);
    return SHERD_OK;
}

size_t sherd__arena_print(const sherd__arena_report *report, char *text, size_t bytes)
{
    sherd__text to = sherd__text_in(text, bytes);

    sherd__text_put(&to, "arena '%s': %.1f MiB", report->name, mib(report->bytes));
    if (report->node >= 0)
        sherd__text_put(&to, " for node %d", report->node);
    if (!report->counted)
        sherd__text_put(&to, ", where it lies is not known");
    for (int32_t i = 0; report->counted && i < SHERD__MAX_NODES; i++)
        if (report->on_node[i] > 0)
            sherd__text_put(&to, ", %.1f on node %d", mib(report->on_node[i]), i);
    if (report->absent_bytes > 0)
        sherd__text_put(&to, ", %.1f not in memory", mib(report->absent_bytes));
    sherd__text_put(&to, ", %.1f in huge pages, %.1f locked", mib(report->huge_bytes), mib(report->locked_bytes));
    if (report->pinned_bytes > 0)
        sherd__text_put(&to, ", %.1f registered with the device", mib(report->pinned_bytes));
    if (report->fallback[0])
        sherd__text_put(&to, "; %s", report->fallback);
    return to.length;
}

uint64_t sherd__arena_mapped_bytes(const sherd__arena *arena)
{
    return arena->mapped_bytes;
}

const char *sherd__arena_fallback(const sherd__arena *arena)
{
    return arena->fallback;
}
