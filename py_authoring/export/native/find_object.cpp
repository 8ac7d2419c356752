// Where a library's exceptions find their frames, for C libraries older than 2.35: newer g++ link a call of `_dl_find_object` into
// everything, and a library that asks for it does not open on older systems.
#include <dlfcn.h>
#include <link.h>

#ifdef DLFO_STRUCT_HAS_EH_DBASE

namespace {

struct Search {
  ElfW(Addr) address;
  dl_find_object *found;
};

int look(dl_phdr_info *library, size_t, void *data) {
  const Search &search = *static_cast<Search *>(data);
  bool is_inside = false;
  void *frames = nullptr;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const ElfW(Phdr) &part = library->dlpi_phdr[i];
    const ElfW(Addr) start = library->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_GNU_EH_FRAME)
      frames = reinterpret_cast<void *>(start);
    if (part.p_type == PT_LOAD && search.address >= start && search.address - start < part.p_memsz) {
      is_inside = true;
      search.found->dlfo_map_start = reinterpret_cast<void *>(start);
      search.found->dlfo_map_end = reinterpret_cast<void *>(start + part.p_memsz);
    }
  }
  if (!is_inside || !frames)
    return 0;
  search.found->dlfo_eh_frame = frames;
  return 1;
}

} // namespace

// The loader's own function of this name, for what is linked with it.
extern "C" __attribute__((visibility("hidden"))) int _dl_find_object(void *address, dl_find_object *found) noexcept {
  *found = {};
  Search search{reinterpret_cast<ElfW(Addr)>(address), found};
  return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}

#endif
