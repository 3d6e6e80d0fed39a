//! Links: Unix sockets that carry descriptors, and TCP
