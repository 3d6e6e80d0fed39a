//! Network bytes to messages and back
