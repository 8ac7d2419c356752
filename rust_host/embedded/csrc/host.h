/* What the two files of C share. The names are as long as any that is written over them may be. */
#include <stdint.h>

#define HOST(of) rust_host_in_place_of_the_host_of_this_version##of
#define MODEL(of) rust_host_in_place_of_the_name_of_the_model_that_is_at_most_ninety_six_bytes_long_and_never_longer_##of

struct model {
    const unsigned char *package;
    const uint64_t *length;
    const char *name;
    void *opened;
};

__attribute__((visibility("hidden"))) int HOST(_run)(struct model *model, const uintptr_t *arguments);
__attribute__((visibility("hidden"))) int HOST(_verify)(struct model *model);
__attribute__((visibility("hidden"))) const char *HOST(_error)(void);
