package keyname

import "strings"

// Slot is the hash slot of a Redis key: CRC16 (XMODEM) of its hash tag, or of all of it without one.
func Slot(redisKey string) int {
	if open := strings.IndexByte(redisKey, '{'); open >= 0 {
		if size := strings.IndexByte(redisKey[open+1:], '}'); size > 0 {
			redisKey = redisKey[open+1 : open+1+size]
		}
	}
	var crc uint16
	for i := 0; i < len(redisKey); i++ {
		crc ^= uint16(redisKey[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % 16384)
}
