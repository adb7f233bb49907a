/* A TCG plugin that counts the instructions that each CPU executes.
 *
 * The few functions of QEMU that it calls are declared here, since Debian ships no header for
 * them; they are the same in QEMU 7.2 and 10, but for the version.
 *
 * Built by `make bench`: cc -shared -fPIC. The counts are in the file that `counts=` names, 64
 * words of 64 bits, one a CPU, and can be read while the machine runs.
 */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t,
                                                              struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb,
                                          void (*executed)(unsigned int, void *), int flags,
                                          void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);

enum { CPUS = 64 };

/* QEMU 7.2 speaks version 1 only, QEMU 10 none before 2; what is used here is in both. */
EXPORT int qemu_plugin_version = PLUGIN_API;

static volatile uint64_t *executed;

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

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    const size_t size = CPUS * sizeof(uint64_t);
    int file;

    (void)info;
    if (argc != 1 || strncmp(argv[0], "counts=", 7) != 0) {
        fprintf(stderr, "count: give counts=<path>\n");
        return 1;
    }
    file = open(argv[0] + 7, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || ftruncate(file, (off_t)size) != 0) {
        perror(argv[0] + 7);
        return 1;
    }
    executed = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (executed == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
