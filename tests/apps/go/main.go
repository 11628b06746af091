// A small shop on net/http, as one would write it: password checks with bcrypt in the handler's goroutine.
//
// Environment: LISTEN (address and port), HASH_COST (how many times the usual work a password check is; bcrypt's work
// doubles from step to step, so the next power of two), MODE: "http" (the default), "tls" (HTTP/1.1 over crypto/tls),
// "h2" (HTTP/2 or 1.1 over TLS, as the client likes), "h2c" (HTTP/2 without TLS by prior knowledge, or HTTP/1.1).
//
// Go has no clock of a goroutine's CPU time, so the answers say nothing of what they cost. With LOCK_THREAD=1 every
// handler keeps its thread for itself, whose clock then counts that request alone: X-Cpu-Ns. That also changes how
// the runtime schedules; it is a cross-check, not what people run.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c"
)

const (
	usualCost = 8
	articles  = 900
	shown     = 20
)

type article struct {
	ID    int    `json:"id"`
	Name  string `json:"name"`
	Price int    `json:"price"`
}

type shop struct {
	users     map[string][]byte
	catalogue []article
}

func main() {
	times, err := strconv.Atoi(os.Getenv("HASH_COST"))
	if err != nil {
		times = 1
	}
	cost := usualCost
	for reached := 1; reached < times; reached *= 2 {
		cost++
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), cost)
	if err != nil {
		log.Fatal(err)
	}
	s := shop{users: map[string][]byte{"ann": hash}}
	for n := 1; n <= articles; n++ {
		s.catalogue = append(s.catalogue, article{n, fmt.Sprintf("Article %d", n), n * 7919 % 10007})
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/login", s.login)
	routes.HandleFunc("/browse", s.browse)
	routes.HandleFunc("/report", s.report)
	var handler http.Handler = routes
	if os.Getenv("LOCK_THREAD") == "1" {
		handler = onOneThread(handler)
	}
	log.Fatal(serve(os.Getenv("MODE"), handler))
}

func serve(mode string, handler http.Handler) error {
	listener, err := net.Listen("tcp", os.Getenv("LISTEN"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler}
	switch mode {
	case "", "http":
		return server.Serve(listener)
	case "h2c":
		server.Handler = h2c.NewHandler(handler, &http2.Server{})
		return server.Serve(listener)
	case "tls", "h2":
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
		if mode == "tls" {
			server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
		}
		return server.ServeTLS(listener, "", "")
	}
	return fmt.Errorf("MODE=%s: want http, tls, h2 or h2c", mode)
}

// Checks a password; an unknown user fails before any hashing.
func (s *shop) login(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		answer(w, http.StatusMethodNotAllowed, map[string]string{"error": "POST only"})
		return
	}
	hash, known := s.users[r.PostFormValue("user")]
	if !known {
		answer(w, http.StatusUnauthorized, map[string]string{"error": "unknown user"})
		return
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(r.PostFormValue("password"))) != nil {
		answer(w, http.StatusUnauthorized, map[string]string{"error": "wrong password"})
		return
	}
	answer(w, http.StatusOK, map[string]string{"welcome": r.PostFormValue("user")})
}

// The cheapest articles: light.
func (s *shop) browse(w http.ResponseWriter, _ *http.Request) {
	found := []article{}
	for _, one := range s.catalogue {
		if strings.HasPrefix(one.Name, "Article") {
			found = append(found, one)
		}
	}
	sort.Slice(found, func(a, b int) bool { return found[a].Price < found[b].Price })
	answer(w, http.StatusOK, map[string]interface{}{"articles": found[:shown]})
}

// Waits for a slow system elsewhere: long, but next to no CPU.
func (s *shop) report(w http.ResponseWriter, _ *http.Request) {
	time.Sleep(50 * time.Millisecond)
	answer(w, http.StatusOK, map[string]int{"sales": 42})
}

func answer(w http.ResponseWriter, status int, content interface{}) {
	body, err := json.Marshal(content)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// A response that is told its cost just before its head goes out.
type costed struct {
	http.ResponseWriter
	began int64
}

func (c costed) WriteHeader(status int) {
	c.Header().Set("X-Cpu-Ns", strconv.FormatInt(threadCPU()-c.began, 10))
	c.ResponseWriter.WriteHeader(status)
}

func onOneThread(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		next.ServeHTTP(costed{w, threadCPU()}, r)
	})
}

// The thread's CPU time in nanoseconds.
func threadCPU() int64 {
	const clockThreadCPUTime = 3
	var now syscall.Timespec
	_, _, failed := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockThreadCPUTime, uintptr(unsafe.Pointer(&now)), 0)
	if failed != 0 {
		log.Fatal("no clock of the thread's CPU time: ", failed)
	}
	return now.Nano()
}

// A certificate for this run alone; clients are told not to check it.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
