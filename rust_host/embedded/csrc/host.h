/* What the two files of C share. The names are as long as any that is written over them may be. */
#include <stdint.h>

#define HOST(of) rust_host_in_place_of_the_host_of_this_version##of
#define MODEL(of) rust_host_in_place_of_the_name_of_the_model_that_is_at_most_ninety_six_bytes_long_and_never_longer_##of
#define DATA(of) \
    rust_host_in_place_of_the_data_of_the_model_whose_name_is_at_most_ninety_six_bytes_long_with_some_words_before_it_##of

struct model {
    const unsigned char *package;
    const uint64_t *length;
    const char *name;
    void *opened;
};

#define WITHIN_THE_LIBRARY __attribute__((visibility("hidden")))

WITHIN_THE_LIBRARY int HOST(_run)(struct model *model, const uintptr_t *arguments);
WITHIN_THE_LIBRARY int HOST(_verify)(struct model *model);
WITHIN_THE_LIBRARY const char *HOST(_error)(void);
