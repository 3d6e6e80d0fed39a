//! Arena, regions, direct I/O by io_uring or threads, and the disk that forgets
