/* SPDX-License-Identifier: MIT
 *
 * For address-sanitizer builds only: MPI's plugins stay mapped to the end, so that the leak checker can name the library
 * a block came from and lsan.supp can leave it out.
 */
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
