/* Remembers what a process forced to the disk, for tests/support/power_cut.py.
 *
 * Preloaded with POWER_TOP (a directory) and POWER_SHADOW (an empty one) in the environment: at every fsync and
 * fdatasync of a file below POWER_TOP its content is copied to the same path below POWER_SHADOW, at every fsync of a
 * directory its listing is written to ".names" there. What is copied was read before the call and appears after it:
 * what is written meanwhile may or may not be on the disk. The calls themselves are the real ones.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_int serial;

static void make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
}

static void copy_file(const char *from, int to) {
    static const size_t size = 1 << 18;
    char *buffer = malloc(size);
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    ssize_t count;
    while (buffer && fd >= 0 && (count = read(fd, buffer, size)) > 0)
        if (write(to, buffer, count) != count)
            abort();
    if (fd >= 0)
        close(fd);
    free(buffer);
}

static void list_directory(const char *path, int to) {
    DIR *directory = opendir(path);
    struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        dprintf(to, "%s\n", entry->d_name);
    if (directory)
        closedir(directory);
}

static int watched(int fd, int (*real)(int)) {
    const char *top = getenv("POWER_TOP"), *shadow = getenv("POWER_SHADOW");
    char link[64], path[PATH_MAX], place[PATH_MAX], scratch[PATH_MAX + 32];
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = top && shadow ? readlink(link, path, sizeof path - 1) : -1;
    if (length < 0)
        return real(fd);
    path[length] = 0;
    size_t prefix = strlen(top);
    if (strncmp(path, top, prefix) || (path[prefix] && path[prefix] != '/') || fstat(fd, &status))
        return real(fd);
    int is_directory = S_ISDIR(status.st_mode);
    snprintf(place, sizeof place, "%s%s%s", shadow, path + prefix, is_directory ? "/.names" : "");
    snprintf(scratch, sizeof scratch, "%s.%d-%d", place, (int)getpid(), atomic_fetch_add(&serial, 1));
    make_parents(scratch);
    int copy = open(scratch, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (copy < 0)
        return real(fd);
    if (is_directory)
        list_directory(path, copy);
    else
        copy_file(link, copy);
    close(copy);
    int result = real(fd);
    if (result == 0)
        rename(scratch, place);
    else
        unlink(scratch);
    return result;
}

int fsync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync")); }

int fdatasync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync")); }
