#ifndef TREE_H
#define TREE_H

#include <stdio.h>

/* Writes one line for every regular file below `path` on the same file system: its size in bytes, a tab, its path.
 * Returns how many files that were, or -1 with errno set. */
int list_files(const char *path, FILE *out);

#endif
