/* A libvulkan.so.1 in front of the real one. The submission LOSE_AT, counted from 1, and every call of the queue after it
 * report that the device is lost. VULKAN names the real library. The number of submissions is appended to the file COUNT.
 *
 *     LD_LIBRARY_PATH=folder VULKAN=/usr/lib/.../libvulkan.so.1 LOSE_AT=7 COUNT=count command
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*function)(void);
typedef function (*lookup)(void *, const char *);

enum { DEVICE_LOST = -4 };

static lookup of_instance, of_device;
static int (*submit)(void *, uint32_t, const void *, uint64_t);
static int (*wait_fences)(void *, uint32_t, const uint64_t *, uint32_t, uint64_t);
static int (*wait_semaphores)(void *, const void *, uint64_t);
static long submissions;

static int is_lost(void) {
    const char *at = getenv("LOSE_AT");
    return at && atol(at) > 0 && submissions >= atol(at);
}

static void count(void) {
    const char *path = getenv("COUNT");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld\n", submissions);
        fclose(file);
    }
}

static int submit_or_lose(void *queue, uint32_t n, const void *submits, uint64_t fence) {
    submissions++;
    count();
    return is_lost() ? DEVICE_LOST : submit(queue, n, submits, fence);
}

static int wait_fences_or_lose(void *device, uint32_t n, const uint64_t *fences, uint32_t all, uint64_t timeout) {
    return is_lost() ? DEVICE_LOST : wait_fences(device, n, fences, all, timeout);
}

static int wait_semaphores_or_lose(void *device, const void *info, uint64_t timeout) {
    return is_lost() ? DEVICE_LOST : wait_semaphores(device, info, timeout);
}

static function replaced(const char *name, function real) {
    if (!real)
        return real;
    if (!strcmp(name, "vkQueueSubmit")) {
        submit = (void *)real;
        return (function)submit_or_lose;
    }
    if (!strcmp(name, "vkWaitForFences")) {
        wait_fences = (void *)real;
        return (function)wait_fences_or_lose;
    }
    if (!strncmp(name, "vkWaitSemaphores", 16)) {
        wait_semaphores = (void *)real;
        return (function)wait_semaphores_or_lose;
    }
    return real;
}

static function device_lookup(void *device, const char *name) {
    return replaced(name, of_device(device, name));
}

function vkGetInstanceProcAddr(void *instance, const char *name) {
    if (!of_instance) {
        void *library = dlopen(getenv("VULKAN"), RTLD_NOW | RTLD_LOCAL);
        if (!library)
            return NULL;
        of_instance = (lookup)dlsym(library, "vkGetInstanceProcAddr");
    }
    function found = of_instance(instance, name);
    if (found && !strcmp(name, "vkGetDeviceProcAddr")) {
        of_device = (lookup)found;
        return (function)device_lookup;
    }
    return replaced(name, found);
}
