/* The functions of one model. Compiled once for each number of arguments, PARAMETERS and ARGUMENTS: the header declares pointers and
   sizes, which are passed as numbers of their width are. */
#include "host.h"

extern const unsigned char MODEL(_package)[];
extern const uint64_t MODEL(_length);
extern const char MODEL(_name)[];

static struct model model = {MODEL(_package), &MODEL(_length), MODEL(_name), 0};

int MODEL(_run)(PARAMETERS) {
    const uintptr_t arguments[] = {ARGUMENTS};
    return HOST(_run)(&model, arguments);
}

int MODEL(_verify)(void) {
    return HOST(_verify)(&model);
}

const char *MODEL(_error)(void) {
    return HOST(_error)();
}
