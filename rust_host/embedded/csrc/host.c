/* Opens the host of a library that `rust-host build --header` wrote, and calls it. Compiled when rust-host is; that command writes
   the host's and the model's own names over these two. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host.h"

extern const unsigned char HOST(_bytes)[];
extern const uint64_t HOST(_size);

static void *(*open_model)(const void *package, uint64_t length, const char *name);
static int (*run_model)(void *model, const uintptr_t *arguments);
static int (*verify_model)(void *model);
static const char *(*last_error)(void);

/* Why there is no host; empty if there is one. */
static char missing[256];

static void open_host(void) {
    /* Stays open: the loader takes a library for one that it has when their paths are the same. */
    int file = memfd_create("rust_host", MFD_CLOEXEC);
    uint64_t done = 0;
    while (file >= 0 && done < HOST(_size)) {
        ssize_t count = write(file, HOST(_bytes) + done, HOST(_size) - done);
        if (count > 0) {
            done += (uint64_t)count;
        } else if (count == 0 || errno != EINTR) {
            break;
        }
    }
    if (done < HOST(_size)) {
        snprintf(missing, sizeof missing, "%llu bytes of the host cannot be put into memory: %s",
                 (unsigned long long)HOST(_size), strerror(errno));
        return;
    }
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    void *host = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (host == NULL) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "the host cannot be loaded: %s", why == NULL ? "no reason given" : why);
        return;
    }
    /* Its functions have these types: it was put into the library by the same rust-host. */
    *(void **)&open_model = dlsym(host, "rust_host_embedded_open");
    *(void **)&run_model = dlsym(host, "rust_host_embedded_run");
    *(void **)&verify_model = dlsym(host, "rust_host_embedded_verify");
    *(void **)&last_error = dlsym(host, "rust_host_embedded_error");
    if (open_model == NULL || run_model == NULL || verify_model == NULL || last_error == NULL) {
        snprintf(missing, sizeof missing, "the host lacks a function: link the library that one rust-host wrote");
    }
}

/* The model, opened by the first call; NULL if it cannot be. */
static void *opened(struct model *model) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    void *found = __atomic_load_n(&model->opened, __ATOMIC_ACQUIRE);
    if (found != NULL) {
        return found;
    }
    pthread_once(&once, open_host);
    if (missing[0] != '\0') {
        return NULL;
    }
    pthread_mutex_lock(&lock);
    found = model->opened;
    if (found == NULL) {
        found = open_model(model->package, *model->length, model->name);
        __atomic_store_n(&model->opened, found, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

int HOST(_run)(struct model *model, const uintptr_t *arguments) {
    void *found = opened(model);
    return found == NULL ? 1 : run_model(found, arguments);
}

int HOST(_verify)(struct model *model) {
    void *found = opened(model);
    return found == NULL ? 1 : verify_model(found);
}

const char *HOST(_error)(void) {
    return last_error == NULL || missing[0] != '\0' ? missing : last_error();
}
