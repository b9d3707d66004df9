package transport

import "strconv"

// scanner walks JSON text without decoding it. It is iterative: nesting costs
// one bit a level in a fixed array, never stack or heap.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0 // never a byte of JSON outside a string
}

func (s *scanner) eat(c byte) bool {
	if s.i < len(s.b) && s.b[s.i] == c {
		s.i++
		return true
	}
	return false
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// key reads a member name and its colon and stops before the value.
func (s *scanner) key() ([]byte, bool) {
	start := s.i
	escaped, ok := s.str()
	if !ok {
		return nil, false
	}
	end := s.i
	s.space()
	if !s.eat(':') {
		return nil, false
	}
	s.space()
	if escaped {
		return unquote(s.b[start:end])
	}
	return s.b[start+1 : end-1], true
}

// int reads an integer of at most bits bits: no fraction, no exponent.
func (s *scanner) int(bits int) (int64, bool) {
	start := s.i
	if !s.number() {
		return 0, false
	}
	n, err := strconv.ParseInt(string(s.b[start:s.i]), 10, bits)
	return n, err == nil
}

// value skips one value of any kind, containers to depth maxDepth (at most
// maxBodyDepth).
func (s *scanner) value(maxDepth int) bool {
	var object [(maxBodyDepth + 63) / 64]uint64 // bit d: level d is an object
	depth := 0
	for {
		// Here a value begins.
		switch c := s.peek(); c {
		case '{', '[':
			if depth == maxDepth {
				return false
			}
			s.i++
			s.space()
			if s.eat(c + 2) { // '}' and ']' are each two after their opener
				break
			}
			if c == '{' {
				object[depth/64] |= 1 << (depth % 64)
				if !s.name() {
					return false
				}
			} else {
				object[depth/64] &^= 1 << (depth % 64)
			}
			depth++
			continue
		default:
			if !s.scalar() {
				return false
			}
		}
		// Here a value has ended: close what ends with it, go on to the next.
		for more := false; !more; {
			if depth == 0 {
				return true
			}
			s.space()
			inObject := object[(depth-1)/64]&(1<<((depth-1)%64)) != 0
			switch {
			case s.eat(','):
				s.space()
				if inObject && !s.name() {
					return false
				}
				more = true
			case inObject && s.eat('}'), !inObject && s.eat(']'):
				depth--
			default:
				return false
			}
		}
	}
}

// name skips a member name and its colon.
func (s *scanner) name() bool {
	if _, ok := s.str(); !ok {
		return false
	}
	s.space()
	if !s.eat(':') {
		return false
	}
	s.space()
	return true
}

func (s *scanner) scalar() bool {
	switch s.peek() {
	case '"':
		_, ok := s.str()
		return ok
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	return s.number()
}

func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		return false
	}
	s.i += len(w)
	return true
}

// str skips a string, quotes included.
func (s *scanner) str() (escaped, ok bool) {
	if !s.eat('"') {
		return false, false
	}
	for s.i < len(s.b) {
		c := s.b[s.i]
		s.i++
		switch {
		case c == '"':
			return escaped, true
		case c < ' ':
			return escaped, false
		case c == '\\':
			escaped = true
			if !s.escape() {
				return escaped, false
			}
		}
	}
	return escaped, false
}

// escape skips what follows a backslash.
func (s *scanner) escape() bool {
	c := s.peek()
	s.i++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		if len(s.b)-s.i < 4 {
			return false
		}
		for _, h := range s.b[s.i : s.i+4] {
			if h|0x20 < 'a' || h|0x20 > 'f' {
				if h < '0' || h > '9' {
					return false
				}
			}
		}
		s.i += 4
		return true
	}
	return false
}

func (s *scanner) digits() bool {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i > start
}

func (s *scanner) number() bool {
	s.eat('-')
	if !s.eat('0') && !s.digits() {
		return false
	}
	if s.eat('.') && !s.digits() {
		return false
	}
	if s.eat('e') || s.eat('E') {
		if !s.eat('+') {
			s.eat('-')
		}
		return s.digits()
	}
	return true
}
