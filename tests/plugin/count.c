/* A TCG plugin that counts the instructions that each CPU executes.
 *
 * The few functions of QEMU that it calls are declared here, since Debian ships no header for
 * them; they are the same in QEMU 7.2 and 10, but for the version.
 *
 * Built by `make bench`: cc -shared -fPIC. Prints one line a CPU when the machine ends.
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t,
                                                              struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*executed)(unsigned int, void *), int flags,
                                          void *data);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, void (*ended)(qemu_plugin_id_t, void *),
                                    void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_outs(const char *text);

enum { CPUS = 64 };

/* QEMU 7.2 speaks version 1 only, QEMU 10 none before 2; what is used here is in both. */
EXPORT int qemu_plugin_version = PLUGIN_API;

static uint64_t executed[CPUS];

/* Under -icount all CPUs take turns on one thread, so a plain addition will do. */
static void count(unsigned int cpu, void *instructions)
{
    executed[cpu % CPUS] += (uintptr_t)instructions;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, count, 0,
                                         (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void ended(qemu_plugin_id_t id, void *data)
{
    (void)id;
    (void)data;
    for (unsigned int cpu = 0; cpu < CPUS; cpu++) {
        if (executed[cpu] != 0) {
            char line[64];
            snprintf(line, sizeof line, "instructions %u %" PRIu64 "\n", cpu, executed[cpu]);
            qemu_plugin_outs(line);
        }
    }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    (void)argc;
    (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, ended, NULL);
    return 0;
}
