/* Lists every file of the image it runs in: itself. */

#include "tree.h"

#include <errno.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "/";
    int files = list_files(path, stdout);
    if (files < 0) {
        fprintf(stderr, "lstree: %s: %s\n", path, strerror(errno));
        return 1;
    }
    printf("%d file%s\n", files, files == 1 ? "" : "s");
    return 0;
}
