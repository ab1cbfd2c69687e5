"""What writes and keeps machine code: vector code, the micro-kernels that algorithms share, the record of a step, the compiler."""
