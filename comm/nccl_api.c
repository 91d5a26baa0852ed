/* SPDX-License-Identifier: MIT */
#include "comm/nccl_api.h"

#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SONAME "libnccl.so.2"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static sherd__nccl_api loaded;
static int is_loaded;

/* Under $variable, or from the root where that is NULL. */
static const struct {
    const char *variable, *pattern;
} places[] = {
    {"VIRTUAL_ENV", "/lib/python3*/site-packages/nvidia/nccl/lib/" SONAME},
    {"CONDA_PREFIX", "/lib/python3*/site-packages/nvidia/nccl/lib/" SONAME},
    {"HOME", "/.local/lib/python3*/site-packages/nvidia/nccl/lib/" SONAME},
    {NULL, "/usr/local/lib/python3*/*-packages/nvidia/nccl/lib/" SONAME},
    {NULL, "/usr/lib/python3*/*-packages/nvidia/nccl/lib/" SONAME},
    {NULL, "/opt/conda/lib/python3*/site-packages/nvidia/nccl/lib/" SONAME},
    {NULL, "/usr/local/cuda/lib*/" SONAME},
    {NULL, "/usr/local/cuda-*/lib*/" SONAME},
};

static void *open_place(const char *variable, const char *pattern)
{
    const char *root = variable ? getenv(variable) : "";
    char path[512];
    glob_t found;
    void *library = NULL;
    if (!root || (variable && !root[0]) || snprintf(path, sizeof path, "%s%s", root, pattern) >= (int)sizeof path)
        return NULL;
    if (glob(path, 0, NULL, &found) != 0)
        return NULL;
    for (size_t i = found.gl_pathc; i-- > 0 && !library;) /* the latest first */
        library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
    globfree(&found);
    return library;
}

static sherd_status open_library(void **out, sherd_error *err)
{
    const char *wanted = getenv("SHERD_NCCL_LIBRARY");
    char why[256] = "";
    void *library = dlopen(wanted && wanted[0] ? wanted : SONAME, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        snprintf(why, sizeof why, "%s", dlerror());
    for (size_t i = 0; !library && !(wanted && wanted[0]) && i < sizeof places / sizeof *places; i++)
        library = open_place(places[i].variable, places[i].pattern);
    if (!library)
        return sherd__fail(
            err, SHERD_EUNSUPPORTED,
            "NCCL cannot be used: %.255s; install it (a package of NVIDIA's, or the wheel nvidia-nccl-cu12), or "
            "set SHERD_NCCL_LIBRARY to the file",
            why);
    *out = library;
    return SHERD_OK;
}

/* Function pointers out of object pointers, as POSIX has it. Returns the first that is missing. */
static const char *take_symbols(void *library, sherd__nccl_api *api)
{
    const char *missing = NULL;
    void *at;
#define X(name, arguments)                                                                                             \
    at = dlsym(library, "nccl" #name);                                                                                 \
    memcpy(&api->name, &at, sizeof at);                                                                                \
    if (!at && !missing)                                                                                               \
        missing = "nccl" #name;
    X(GetErrorString, )
    X(GetLastError, )
    SHERD__NCCL_MAP(X)
#undef X
#define X(name, arguments)                                                                                             \
    at = dlsym(library, "nccl" #name);                                                                                 \
    memcpy(&api->name, &at, sizeof at);
    SHERD__NCCL_LATER_MAP(X)
#undef X
    return missing;
}

static void find_version(sherd__nccl_api *api)
{
    Dl_info where;
    void *at;
    memcpy(&at, &api->GetVersion, sizeof at);
    if (at && dladdr(at, &where) && where.dli_fname)
        snprintf(api->path, sizeof api->path, "%s", where.dli_fname);
    if (!api->GetVersion || api->GetVersion(&api->version) != SHERD__NCCL_SUCCESS)
        api->version = 0;
    int new = api->version >= 10000, code = api->version;
    snprintf(api->name, sizeof api->name, "%d.%d.%d", code / (new ? 10000 : 1000), code / 100 % (new ? 100 : 10),
             code % 100);
}

static sherd_status check(const sherd__nccl_api *api, const char *missing, sherd_error *err)
{
    if (api->version < SHERD__NCCL_OLDEST)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "NCCL %.23s (%.255s) is too old: 2.19.3 or later is needed; install that, or set "
                           "SHERD_NCCL_LIBRARY to it",
                           api->name, api->path);
    return missing ? sherd__fail(err, SHERD_EUNSUPPORTED, "NCCL %.23s (%.255s) has no %.63s: is it NVIDIA's?",
                                 api->name, api->path, missing)
                   : SHERD_OK;
}

sherd_status sherd__nccl_load(const sherd__nccl_api **out, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    void *library = NULL;
    pthread_mutex_lock(&lock);
    if (!is_loaded) {
        sherd__nccl_api api = {0};
        status = open_library(&library, err);
        if (status == SHERD_OK) {
            const char *missing = take_symbols(library, &api);
            find_version(&api);
            status = check(&api, missing, err);
        }
        if (status == SHERD_OK) {
            loaded = api;
            is_loaded = 1;
        } else if (library) {
            (void)dlclose(library);
        }
    }
    pthread_mutex_unlock(&lock);
    if (status == SHERD_OK)
        *out = &loaded;
    return status;
}

void sherd__nccl_describe(char *text, size_t capacity)
{
    const sherd__nccl_api *api = NULL;
    sherd_error error;
    if (sherd__nccl_load(&api, &error) == SHERD_OK)
        snprintf(text, capacity, "yes, %s (%s)%s", api->name, api->path,
                 api->CommWindowRegister ? ", symmetric windows" : "");
    else
        snprintf(text, capacity, "no: %s", error.text);
}
