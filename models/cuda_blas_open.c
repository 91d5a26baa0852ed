/* SPDX-License-Identifier: MIT
 *
 * Where cuBLASLt is: nothing about it is linked, so a program built without it, or run without it, starts. The version
 * that fits the CUDA runtime of this build is looked for first. Wheels: nvidia/cublas/lib (CUDA 12), nvidia/cu13/lib.
 */
#include "models/cuda_blas_api.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if !defined(CUDART_VERSION)
#define CUDART_VERSION 13000
#endif

static const int MAJORS[] = {13, 12};

/* Folders and what stands in front of them: an environment variable, or a path. `%d` is not in them: the file's name
 * follows. Wildcards as in a shell. */
static const struct {
    const char *variable, *path;
} FOLDERS[] = {
    {"CUDA_PATH", "/lib64"},
    {"CUDA_HOME", "/lib64"},
    {"VIRTUAL_ENV", "/lib/python3*/site-packages/nvidia/*/lib"},
    {"CONDA_PREFIX", "/lib/python3*/site-packages/nvidia/*/lib"},
    {"HOME", "/.local/lib/python3*/site-packages/nvidia/*/lib"},
    {NULL, "/usr/local/lib/python3*/*-packages/nvidia/*/lib"},
    {NULL, "/usr/lib/python3*/*-packages/nvidia/*/lib"},
    {NULL, "/opt/conda/lib/python3*/site-packages/nvidia/*/lib"},
    {NULL, "/usr/local/cuda/lib64"},
    {NULL, "/usr/local/cuda/lib"},
    {NULL, "/usr/local/cuda/targets/*/lib"},
};

static void *open_file(const char *path, sherd_blas_api *api)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    struct link_map *map = NULL;
    if (library) { /* the loader knows the whole path */
        int known = dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && map && map->l_name && map->l_name[0];
        snprintf(api->path, sizeof api->path, "%s", known ? map->l_name : path);
    }
    return library;
}

static void *open_in(const char *variable, const char *folder, int major, sherd_blas_api *api)
{
    char pattern[512];
    const char *front = variable ? getenv(variable) : "";
    glob_t found;
    void *library = NULL;
    if (!front || (variable && !*front)) {
        return NULL;
    }
    int length = snprintf(pattern, sizeof pattern, "%s%s/libcublasLt.so.%d", front, folder, major);
    if (length < 0 || (size_t)length >= sizeof pattern || glob(pattern, 0, NULL, &found) != 0) {
        return NULL;
    }
    for (size_t i = 0; i < found.gl_pathc && !library; i++) {
        library = open_file(found.gl_pathv[i], api);
    }
    globfree(&found);
    return library;
}

static void *open_major(int major, sherd_blas_api *api)
{
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%d", major);
    void *library = open_file(name, api);
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS && !library; i++) {
        library = open_in(FOLDERS[i].variable, FOLDERS[i].path, major, api);
    }
    return library;
}

static void *open_any(sherd_blas_api *api)
{
    const char *named = getenv("SHERD_CUBLASLT");
    if (named && *named) {
        return open_file(named, api);
    }
    void *library = open_major(CUDART_VERSION / 1000, api);
    for (size_t i = 0; i < sizeof MAJORS / sizeof *MAJORS && !library; i++) {
        library = open_major(MAJORS[i], api);
    }
    return library;
}

/* C has no conversion from dlsym's object pointer to a function pointer; POSIX says the bytes are the same. */
static int resolve(void *library, sherd_blas_api *api, const char **missing)
{
    const struct {
        void *at;
        const char *name;
    } names[] = {
        {&api->create, "cublasLtCreate"},
        {&api->version, "cublasLtGetVersion"},
        {&api->desc_create, "cublasLtMatmulDescCreate"},
        {&api->desc_destroy, "cublasLtMatmulDescDestroy"},
        {&api->desc_set, "cublasLtMatmulDescSetAttribute"},
        {&api->layout_create, "cublasLtMatrixLayoutCreate"},
        {&api->layout_destroy, "cublasLtMatrixLayoutDestroy"},
        {&api->pref_create, "cublasLtMatmulPreferenceCreate"},
        {&api->pref_destroy, "cublasLtMatmulPreferenceDestroy"},
        {&api->pref_set, "cublasLtMatmulPreferenceSetAttribute"},
        {&api->heuristic, "cublasLtMatmulAlgoGetHeuristic"},
        {&api->matmul, "cublasLtMatmul"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *symbol = dlsym(library, names[i].name);
        *missing = names[i].name;
        if (!symbol) {
            return 0;
        }
        memcpy(names[i].at, &symbol, sizeof symbol);
    }
    return 1;
}

sherd_status sherd__cuda_blas_open(sherd_blas_api *out, sherd_error *err)
{
    sherd_blas_api api;
    const char *missing = "";
    memset(&api, 0, sizeof api);
    void *library = open_any(&api);
    if (!library) {
        const char *said = dlerror();
        return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                 "model: cuBLASLt was not found (%s); install CUDA's toolkit or the wheel "
                                 "nvidia-cublas, or name the file in SHERD_CUBLASLT",
                                 said ? said : "no folder has libcublasLt.so.12 or .13");
    }
    if (!resolve(library, &api, &missing)) {
        (void)dlclose(library);
        return sherd__model_fail(err, SHERD_EUNSUPPORTED, "model: %s has no '%s'; versions 12 and 13 of cuBLASLt do",
                                 api.path, missing);
    }
    *out = api;
    return SHERD_OK;
}
