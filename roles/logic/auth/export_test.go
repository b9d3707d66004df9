package auth

import "time"

// ForgetFetchTime lets the next unknown key be looked for at once.
func (j *JWT) ForgetFetchTime() {
	j.keys.refreshing <- struct{}{}
	defer func() { <-j.keys.refreshing }()
	for _, o := range j.keys.origins {
		o.readAt = time.Time{}
	}
}
