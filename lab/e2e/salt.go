package main

import "math/bits"

// maxParallelism is that of the lab's jobs: how many key groups they have.
const maxParallelism = 128

// saltable is the number of a hot key (hot.COMPONENT.key of the lab's jobs) whose
// first n salted keys go to n different instances of so many, so that salting it
// mends it.
func saltable(n, parallelism int) int64 {
	for key := int64(1); ; key++ {
		at := map[int]bool{}
		for i := range int64(n) {
			at[instanceOf(1_000_000+key*1000+i, parallelism)] = true
		}
		if len(at) == n {
			return key
		}
	}
}

// instanceOf is the instance that Flink gives a record with a key of Java's type
// Long to: the 32-bit Murmur hash of its hash code, modulo the number of key groups,
// and the group's place among the instances.
func instanceOf(key int64, parallelism int) int {
	k := uint32(key) ^ uint32(uint64(key)>>32) // Long.hashCode
	k *= 0xcc9e2d51
	k = bits.RotateLeft32(k, 15)
	k *= 0x1b873593
	k = bits.RotateLeft32(k, 13)
	k = k*5 + 0xe6546b64
	k ^= 4 // bytes hashed
	k ^= k >> 16
	k *= 0x85ebca6b
	k ^= k >> 13
	k *= 0xc2b2ae35
	k ^= k >> 16
	hash := int64(int32(k))
	if hash < 0 {
		hash = -hash
	}
	return int(hash%maxParallelism) * parallelism / maxParallelism
}
