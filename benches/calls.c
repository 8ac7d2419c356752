/* Microseconds of a call of a library that `rust-host build --header` wrote: the median after a warm-up of a fifth of the time.

   cc -O2 -DHEADER='"mlp.h"' -DRUN=mlp_run -DERROR=mlp_error calls.c -I FOLDER -L FOLDER -lmlp -o calls
   calls ROWS NUMBERS_IN NUMBERS_OUT SECONDS      for `int mlp_run(int64_t batch, const float *x, float *y)` */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include HEADER

enum { MOST = 10000000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static int earlier(const void *a, const void *b) {
    const float left = *(const float *)a, right = *(const float *)b;
    return (left > right) - (left < right);
}

int main(int count, char **words) {
    if (count != 5) {
        return 2;
    }
    const long rows = atol(words[1]), in = rows * atol(words[2]), out = rows * atol(words[3]);
    const double seconds = atof(words[4]) * 1e6;
    float *x = malloc((size_t)in * sizeof *x), *y = malloc((size_t)out * sizeof *y);
    float *times = malloc(MOST * sizeof *times);
    if (x == NULL || y == NULL || times == NULL) {
        return 3;
    }
    for (long i = 0; i < in; i++) {
        x[i] = (float)(i % 255) / 255;
    }
    long calls = 0;
    const double start = now(), measured_from = start + seconds / 5;
    for (double before = start; (before < measured_from + seconds || calls < 3) && calls < MOST;) {
        if (RUN(rows, x, y) != 0) {
            fprintf(stderr, "error: %s\n", ERROR());
            return 1;
        }
        const double after = now();
        if (before >= measured_from) {
            times[calls++] = (float)(after - before);
        }
        before = after;
    }
    qsort(times, (size_t)calls, sizeof *times, earlier);
    printf("%.2f\n", times[calls / 2]);
    return 0;
}
