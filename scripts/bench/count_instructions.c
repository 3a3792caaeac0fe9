/* A plugin of qemu that counts the instructions of a program for another processor.
 *
 *     cc -shared -fPIC -o count.so scripts/bench/count_instructions.c
 *     qemu-aarch64 -plugin ./count.so -cpu max cress translate model.cress talk.wav --isa neon
 *
 * The interface of plugins, version 1, is declared here: distributions pack its header apart. */
#include <inttypes.h>
#include <stdio.h>
#include <stddef.h>

typedef uint64_t id;
struct qemu_plugin_tb;
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern void qemu_plugin_register_vcpu_tb_trans_cb(id, void (*)(id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *to, uint64_t add);
extern void qemu_plugin_register_atexit_cb(id, void (*)(id, void *), void *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;
static uint64_t count;
static void translated(id plugin, struct qemu_plugin_tb *tb)
{
    (void)plugin;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, 0, &count, qemu_plugin_tb_n_insns(tb));
}
static void end(id plugin, void *data)
{
    (void)plugin, (void)data;
    fprintf(stderr, "instructions %" PRIu64 "\n", count);
}
__attribute__((visibility("default"))) int qemu_plugin_install(id plugin, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
    qemu_plugin_register_atexit_cb(plugin, end, NULL);
    return 0;
}
