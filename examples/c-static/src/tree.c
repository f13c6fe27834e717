#define _XOPEN_SOURCE 700

#include "tree.h"

#include <ftw.h>
#include <inttypes.h>
#include <stdint.h>
#include <sys/stat.h>

/* nftw() hands no argument of ours to its callback. */
static FILE *output;
static int found;

static int visit(const char *path, const struct stat *status, int type, struct FTW *position) {
    (void)position;
    if (type == FTW_F && S_ISREG(status->st_mode)) {
        found++;
        fprintf(output, "%jd\t%s\n", (intmax_t)status->st_size, path);
    }
    return 0;
}

int list_files(const char *path, FILE *out) {
    output = out;
    found = 0;
    return nftw(path, visit, 16, FTW_PHYS | FTW_MOUNT) == 0 ? found : -1;
}
