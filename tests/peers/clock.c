/* A clock of a process's own, off by as many seconds as the eight bytes of the file $CLOCK_OFFSET say at that moment.
 *
 * Preloaded, as libfaketime is; that one leaves cnd_timedwait as it is, by which librdkafka waits until a time, so that Kafka is never reached.
 * Only what time it is becomes wrong; how fast it goes stays right. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long long offset(void) {
    static const long long none = 0;
    static const volatile long long *known;
    const volatile long long *at = __atomic_load_n(&known, __ATOMIC_ACQUIRE);
    if (!at) {
        const char *path = getenv("CLOCK_OFFSET");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *map = file < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        at = map == MAP_FAILED ? &none : map;
        __atomic_store_n(&known, at, __ATOMIC_RELEASE);
    }
    return *at;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int outcome = (int)syscall(SYS_clock_gettime, clock, now);
    if (outcome == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return outcome;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int outcome = (int)syscall(SYS_gettimeofday, now, zone);
    if (outcome == 0) now->tv_sec += offset();
    return outcome;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* Who waits until a time waits until this clock says so: longer, if it is set back meanwhile. */
int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict until) {
    static int (*wait)(cnd_t *, mtx_t *, const struct timespec *);
    if (!wait) wait = (int (*)(cnd_t *, mtx_t *, const struct timespec *))dlsym(RTLD_NEXT, "cnd_timedwait");
    for (;;) {
        struct timespec real;
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
        long long left = (until->tv_sec - real.tv_sec - offset()) * 1000000000LL + until->tv_nsec - real.tv_nsec;
        long long step = left < 50000000LL ? left : 50000000LL;
        long long next = real.tv_nsec + (step > 0 ? step : 0);
        real.tv_sec += next / 1000000000LL;
        real.tv_nsec = next % 1000000000LL;
        int outcome = wait(condition, mutex, &real);
        if (outcome != thrd_timedout || step == left) return outcome;
    }
}
