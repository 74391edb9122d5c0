// The end of what begin_*.h begins.
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
