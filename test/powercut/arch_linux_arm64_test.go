package powercut

// archChanges are system calls that other processors do not have.
var archChanges []uint32
