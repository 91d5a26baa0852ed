// SPDX-License-Identifier: MIT
// The README's program as C++ would write it; it must print the same.
#include <sherd/sherd.h>

#include <cstdio>
#include <memory>
#include <stdexcept>

namespace
{
template <typename T, void (*destroy)(T *)> struct deleter {
    void operator()(T *object) const
    {
        destroy(object);
    }
};
template <typename T, void (*destroy)(T *)> using owned = std::unique_ptr<T, deleter<T, destroy>>;

sherd_error err;

void check(sherd_status status)
{
    if (status != SHERD_OK)
        throw std::runtime_error(err.text[0] ? err.text : sherd_status_text(status));
}

void train()
{
    const char *sets[] = {"train_batch_size=1", "zero_optimization.stage=2", "optimizer.type=SGD", "optimizer.params.lr=0.5"};
    sherd_param weight = {};
    sherd_config config;
    sherd_device_options host;
    sherd_report report;
    sherd_plan *plan_made;
    sherd_device *device_made;
    sherd_comm *comm_made;
    sherd_engine *engine_made;

    weight.name = "w";
    weight.shape[0] = 4;
    weight.ndim = 1;
    weight.dtype = weight.grad_dtype = SHERD_FP32;
    sherd_config_init(&config, sizeof config);
    sherd_device_options_init(&host, sizeof host);
    sherd_report_init(&report, sizeof report);
    check(sherd_config_read(&config, nullptr, sets, 4, nullptr, &err));
    check(sherd_plan_create(&config, &weight, 1, 1, &plan_made, &err));
    owned<sherd_plan, sherd_plan_destroy> plan(plan_made);
    check(sherd_device_create(&host, &device_made, &err));
    owned<sherd_device, sherd_device_destroy> device(device_made);
    check(sherd_comm_create_self(nullptr, &comm_made, &err));
    owned<sherd_comm, sherd_comm_destroy> comm(comm_made);
    check(sherd_engine_create(plan.get(), device.get(), comm.get(), &engine_made, &err));
    owned<sherd_engine, sherd_engine_destroy> engine(engine_made);

    for (int step = 0; step < 20; step++) {
        const void *w;
        sherd_grad grad;
        check(sherd_micro_begin(engine.get(), nullptr));
        check(sherd_param_acquire(engine.get(), 0, &w));
        check(sherd_grad_acquire(engine.get(), 0, &grad));
        for (int i = 0; i < 4; i++)
            static_cast<float *>(grad.data)[i] = static_cast<const float *>(w)[i] - static_cast<float>(i);
        check(sherd_param_release(engine.get(), 0));
        check(sherd_grad_ready(engine.get(), 0));
        check(sherd_engine_step(engine.get(), &report, &err));
    }
    std::printf("updates %d, last gradient norm %.2e\n", static_cast<int>(report.updates), report.grad_norm);
}
} // namespace

int main()
{
    try {
        train();
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
