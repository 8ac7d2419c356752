/* Opens the host of a library that `rust-host build --header` wrote, and calls it. Compiled when rust-host is; that command
   writes the host's and the model's own names over those in host.h. */
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

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Whether those four are there: set last. */
static int is_open;
/* Why there is no host, where this thread asked for it last; else empty. */
static __thread char missing[256];

/* The host in a file in memory, or -1. */
static int file_of_host(void) {
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
    if (file >= 0 && done == HOST(_size)) {
        return file;
    }
    snprintf(missing, sizeof missing, "%llu bytes of the host cannot be put into memory: %s",
             (unsigned long long)HOST(_size), strerror(errno));
    if (file >= 0) {
        close(file);
    }
    return -1;
}

/* The library of that file, or NULL. The file stays open where it was opened: the loader takes one library for another if the
   texts of their paths are the same. Whoever closed all files of the process made a number come again; then the way to it is
   written longer. */
static void *library_of(int file) {
    char path[200] = "/proc/self/fd/";
    void *other;
    do {
        const size_t length = strlen(path);
        snprintf(path + length, sizeof path - length, "%d", file);
        other = dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
        if (other == NULL) {
            (void)dlerror();
            return dlopen(path, RTLD_NOW | RTLD_LOCAL);
        }
        dlclose(other);
        snprintf(path + length, sizeof path - length, "./");
    } while (strlen(path) < sizeof path - 16);
    return NULL;
}

/* What this is linked into stays: its models are never closed, and so it must not be unmapped under them. */
static void stay(void) {
    Dl_info own;
    if (dladdr(&is_open, &own) != 0 && own.dli_fname != NULL) {
        (void)dlopen(own.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
        (void)dlerror();
    }
}

/* Under the lock. */
static void open_host(void) {
    const int file = file_of_host();
    if (file < 0) {
        return;
    }
    void *host = library_of(file);
    if (host == NULL) {
        const char *why = dlerror();
        snprintf(missing, sizeof missing, "the host cannot be loaded: %s", why == NULL ? "no reason given" : why);
        close(file);
        return;
    }
    /* Its functions have these types: it was put into the library by the same rust-host. */
    *(void **)&open_model = dlsym(host, "rust_host_embedded_open");
    *(void **)&run_model = dlsym(host, "rust_host_embedded_run");
    *(void **)&verify_model = dlsym(host, "rust_host_embedded_verify");
    *(void **)&last_error = dlsym(host, "rust_host_embedded_error");
    if (open_model == NULL || run_model == NULL || verify_model == NULL || last_error == NULL) {
        snprintf(missing, sizeof missing, "the host lacks a function: build the library again");
        return;
    }
    stay();
    __atomic_store_n(&is_open, 1, __ATOMIC_RELEASE);
}

/* The model, opened by the first call; NULL if it cannot be, and the next call tries again. */
static void *opened(struct model *model) {
    void *found = __atomic_load_n(&model->opened, __ATOMIC_ACQUIRE);
    if (found != NULL) {
        return found;
    }
    pthread_mutex_lock(&lock);
    missing[0] = '\0';
    if (!is_open) {
        open_host();
    }
    found = model->opened;
    if (is_open && found == NULL) {
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
    return missing[0] != '\0' || !__atomic_load_n(&is_open, __ATOMIC_ACQUIRE) ? missing : last_error();
}
