/* Runs a command whose Nth system call of a kind fails, or at whose Nth call of that kind it is killed.
 *
 *   inject COUNTS KIND N ACTION COMMAND...
 *
 * KIND is open, write, sync, rename, clone or lock; a rename may also be a link. ACTION is "kill" or the number of an error.
 * The counts of all kinds go to the file COUNTS, one "KIND COUNT" per line. With N = 0 nothing fails. The exit code is that of
 * the command, or 128 + the number of the signal that ended it.
 *
 * The command is traced with ptrace. A seccomp filter stops it at these calls only, so it runs at nearly its usual speed. A
 * preloaded library would not see the calls that the command makes without the C library.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const kinds[] = {"open", "write", "sync", "rename", "clone", "lock"};
enum { KINDS = 6 };

static const struct {
    int call, kind;
} calls[] = {
    {SYS_open, 0},   {SYS_openat, 0}, {SYS_write, 1},    {SYS_pwrite64, 1},  {SYS_writev, 1},
    {SYS_fsync, 2},  {SYS_fdatasync, 2}, {SYS_rename, 3}, {SYS_renameat, 3}, {SYS_renameat2, 3},
    {SYS_link, 3},   {SYS_linkat, 3},
    {SYS_clone, 4},  {SYS_clone3, 4}, {SYS_flock, 5},
};
enum { CALLS = sizeof calls / sizeof *calls };

static void fail(const char *what) {
    perror(what);
    exit(125);
}

static void child(char **command) {
    struct sock_filter filter[2 * CALLS + 2] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    };
    int n = 1;
    for (int i = 0; i < CALLS; i++) {
        filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[i].call, 0, 1);
        filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE);
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {n, filter};
    if (ptrace(PTRACE_TRACEME, 0, 0, 0)) fail("ptrace");
    raise(SIGSTOP);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) fail("no new privileges");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) fail("seccomp");
    execv(command[0], command);
    fail(command[0]);
}

int main(int argc, char **argv) {
    if (argc < 6) return 125;
    long counts[KINDS] = {0}, wanted = atol(argv[3]);
    int kills = !strcmp(argv[4], "kill"), error = atoi(argv[4]);
    pid_t first = fork();
    if (first < 0) fail("fork");
    if (!first) child(argv + 5);
    int status;
    if (waitpid(first, &status, 0) != first || !WIFSTOPPED(status)) fail("start");
    long options = PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
    if (ptrace(PTRACE_SETOPTIONS, first, 0, options)) fail("options");
    ptrace(PTRACE_CONT, first, 0, 0);
    int started = 0, code = 125;
    for (;;) {
        pid_t pid = waitpid(-1, &status, __WALL);
        if (pid < 0) break;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event == PTRACE_EVENT_EXEC) started = 1;
        if (event == PTRACE_EVENT_SECCOMP && started) {
            struct user_regs_struct regs;
            if (ptrace(PTRACE_GETREGS, pid, 0, &regs) == 0) {
                int kind = -1;
                for (int i = 0; i < CALLS; i++)
                    if ((long long)regs.orig_rax == calls[i].call) kind = calls[i].kind;
                if (kind >= 0 && ++counts[kind] == wanted && !strcmp(kinds[kind], argv[2])) {
                    if (kills) {
                        kill(first, SIGKILL);
                    } else {
                        regs.orig_rax = -1;
                        regs.rax = -error;
                        ptrace(PTRACE_SETREGS, pid, 0, &regs);
                    }
                }
            }
        }
        /* Stops of the tracer itself are not passed on, and neither is the first stop of a new thread. */
        int passed = event || signal == SIGTRAP || signal == SIGSTOP ? 0 : signal;
        ptrace(PTRACE_CONT, pid, 0, passed);
    }
    FILE *out = fopen(argv[1], "w");
    if (!out) fail(argv[1]);
    for (int i = 0; i < KINDS; i++) fprintf(out, "%s %ld\n", kinds[i], counts[i]);
    fclose(out);
    return code;
}
