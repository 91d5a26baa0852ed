/* SPDX-License-Identifier: MIT
 *
 * Which provider multiplies. oneDNN where it multiplies the type natively: fp32 always, bf16 only on CPUs with bf16
 * instructions, fp16 never. Without them its bf16 runs at a fifth of its fp32 (emulation), while the own GEMM widens
 * bf16 as it packs, which it has to do anyway. bench/models measures both.
 */
#include "models/gemm.h"

static int use_dnnl(const sherd_ops_options *o)
{
#if defined(SHERD_HAVE_DNNL)
    if (o->gemm == SHERD_MODEL_GEMM_AUTO) {
        return o->dtype == SHERD_FP32 || (o->dtype == SHERD_BF16 && sherd__gemm_dnnl_native_bf16());
    }
    return o->gemm == SHERD_MODEL_GEMM_ONEDNN;
#else
    (void)o;
    return 0;
#endif
}

sherd_status sherd__gemm_create(const sherd_ops_options *o, const sherd_kernels *kernels, sherd_pool *pool,
                                sherd_gemm **out, sherd_error *err)
{
    if (!use_dnnl(o)) {
        if (o->gemm == SHERD_MODEL_GEMM_ONEDNN) {
            return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                     "model: products by oneDNN were asked for, but this build has none; "
                                     "install libdnnl-dev and build again, or take AUTO");
        }
        return sherd__gemm_portable_create(o, kernels, pool, out, err);
    }
#if defined(SHERD_HAVE_DNNL)
    return sherd__gemm_dnnl_create(o, kernels, pool, out, err);
#else
    return SHERD_EUNSUPPORTED;
#endif
}

uint64_t sherd__gemm_bytes(const sherd_ops_options *o)
{
    return use_dnnl(o) ? 0 : sherd__gemm_portable_bytes(o);
}
