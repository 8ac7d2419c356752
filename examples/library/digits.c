/* A model in a C program.

   rust-host build models/mnist -o digits --header
   cc digits.c -I digits -L digits -ldigits -o read-digit
   ./read-digit < pixels        784 bytes, one for each pixel of a digit, row by row */
#include <stdio.h>

#include "digits.h"

int main(void) {
    unsigned char pixels[784];
    float image[784];
    float log_probabilities[10];

    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels) {
        fprintf(stderr, "error: expected 784 bytes on stdin\n");
        return 2;
    }
    for (int i = 0; i < 784; i++) {
        image[i] = (float)pixels[i] / 255;
    }
    if (digits_verify() != 0 || digits_run(1, image, log_probabilities) != 0) {
        fprintf(stderr, "error: %s\n", digits_error());
        return 1;
    }
    int best = 0;
    for (int i = 1; i < 10; i++) {
        best = log_probabilities[i] > log_probabilities[best] ? i : best;
    }
    printf("%d\n", best);
    return 0;
}
