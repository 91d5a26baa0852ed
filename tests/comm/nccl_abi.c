/* SPDX-License-Identifier: MIT
 *
 * comm/nccl_api.h against NCCL's own header: the values and layouts it declares are those of nccl.h. Needs no GPU;
 * where the library itself is there too, its symbols are looked up and its version is asked for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <nccl.h>

#include "comm/nccl_api.h"

_Static_assert((int)ncclSuccess == SHERD__NCCL_SUCCESS && (int)ncclInvalidUsage == SHERD__NCCL_INVALID_USAGE &&
                   (int)ncclRemoteError == SHERD__NCCL_REMOTE_ERROR && (int)ncclInProgress == SHERD__NCCL_IN_PROGRESS,
               "results");
_Static_assert((int)ncclInt8 == SHERD__NCCL_INT8 && (int)ncclUint64 == SHERD__NCCL_UINT64 &&
                   (int)ncclFloat16 == SHERD__NCCL_FLOAT16 && (int)ncclFloat32 == SHERD__NCCL_FLOAT32 &&
                   (int)ncclBfloat16 == SHERD__NCCL_BFLOAT16,
               "types");
_Static_assert((int)ncclSum == SHERD__NCCL_SUM && (int)ncclMin == SHERD__NCCL_MIN, "operations");
_Static_assert(sizeof(ncclUniqueId) == sizeof(sherd__nccl_id), "unique id");
_Static_assert(NCCL_CONFIG_UNDEF_INT == SHERD__NCCL_UNDEFINED, "undefined");
#if defined(NCCL_WIN_COLL_SYMMETRIC)
_Static_assert(NCCL_WIN_COLL_SYMMETRIC == SHERD__NCCL_WINDOW_SYMMETRIC, "windows");
#endif
#define SAME(theirs, ours)                                                                                             \
    _Static_assert(offsetof(ncclConfig_t, theirs) == offsetof(sherd__nccl_config, ours), "configuration")
SAME(size, size);
SAME(magic, magic);
SAME(version, version);
SAME(blocking, blocking);
SAME(cgaClusterSize, cga_cluster_size);
SAME(minCTAs, min_ctas);
SAME(maxCTAs, max_ctas);
SAME(netName, net_name);
SAME(splitShare, split_share);

static void test_config(void **state)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    (void)state;
    assert_int_equal(config.magic, SHERD__NCCL_CONFIG_MAGIC);
    assert_true(sizeof(sherd__nccl_config) <= sizeof config);
    assert_true(SHERD__NCCL_CONFIG_VERSION <= NCCL_VERSION_CODE);
    assert_int_equal(SHERD__NCCL_CONFIG_VERSION, NCCL_VERSION(2, 18, 0));
    assert_int_equal(SHERD__NCCL_OLDEST, NCCL_VERSION(2, 19, 3));
}

static void test_library(void **state)
{
    const sherd__nccl_api *api = NULL;
    sherd_error err;
    (void)state;
    if (sherd__nccl_load(&api, &err) != SHERD_OK) {
        printf("skipped: %s\n", err.text);
        skip();
    }
    assert_true(api->version >= SHERD__NCCL_OLDEST);
    assert_non_null(strstr(api->path, "nccl"));
    assert_string_not_equal(api->GetErrorString(SHERD__NCCL_INVALID_USAGE), "");
    printf("NCCL %s, %s\n", api->name, api->path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_config), cmocka_unit_test(test_library)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
