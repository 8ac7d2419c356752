/* The functions of one model. Compiled once for each number of arguments, PARAMETERS and ARGUMENTS: the header declares
   pointers and sizes, which are passed as numbers of their width are. */
#include "host.h"

extern const unsigned char DATA(_package)[];
extern const uint64_t DATA(_length);
extern const char DATA(_name)[];

static struct model model = {DATA(_package), &DATA(_length), DATA(_name), 0};

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
