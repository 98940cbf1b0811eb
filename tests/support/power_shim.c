/* Remembers what a process forced to the disk, for tests/support/power_cut.py.
 *
 * Preloaded with POWER_TOP (a directory) and POWER_SHADOW (an empty one) in the environment: at every fsync and
 * fdatasync of a file below POWER_TOP its content is copied to the same path below POWER_SHADOW, at every fsync of a
 * directory its listing is written to ".names" there, and what was renamed in it since the fsync before has its new
 * name there, too. What is copied was read before the call and appears after it: what is written meanwhile may or may
 * not be on the disk. The calls themselves are the real ones.
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

static int real_rename(const char *from, const char *to) {
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}

/* The place below POWER_SHADOW of a path below POWER_TOP; 0 if it is not below that. */
static int shadow_of(const char *path, char *place, size_t size) {
    const char *top = getenv("POWER_TOP"), *shadow = getenv("POWER_SHADOW");
    size_t prefix = top ? strlen(top) : 0;
    if (!top || !shadow || strncmp(path, top, prefix) || path[prefix] != '/')
        return 0;
    snprintf(place, size, "%s%s", shadow, path + prefix);
    return 1;
}

static void list_of_renames(const char *place, char *list, size_t size) {
    const char *slash = strrchr(place, '/');
    snprintf(list, size, "%.*s/.renamed", (int)(slash - place), place);
}

static void remember_rename(const char *from, const char *to) {
    char old[PATH_MAX], new[PATH_MAX], list[PATH_MAX + 16];
    if (!shadow_of(from, old, sizeof old) || !shadow_of(to, new, sizeof new))
        return;
    list_of_renames(new, list, sizeof list);
    make_parents(list);
    int fd = open(list, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        dprintf(fd, "%s\n%s\n", old, new);
        close(fd);
    }
}

static void apply_renames(const char *names) {
    char list[PATH_MAX + 16], old[PATH_MAX], new[PATH_MAX];
    list_of_renames(names, list, sizeof list);
    FILE *file = fopen(list, "re");
    while (file && fgets(old, sizeof old, file) && fgets(new, sizeof new, file)) {
        old[strcspn(old, "\n")] = new[strcspn(new, "\n")] = 0;
        real_rename(old, new);
    }
    if (file) {
        fclose(file);
        unlink(list);
    }
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
    if (result == 0) {
        real_rename(scratch, place);
        if (is_directory)
            apply_renames(place);
    } else
        unlink(scratch);
    return result;
}

int fsync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fsync")); }

int fdatasync(int fd) { return watched(fd, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync")); }

int rename(const char *from, const char *to) {
    int result = real_rename(from, to);
    if (result == 0)
        remember_rename(from, to);
    return result;
}
