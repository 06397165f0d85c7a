package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

const salvageSuffix = ".salvage" + tempSuffix

// errReplaced says that a file was written anew while it was looked at.
var errReplaced = errors.New("the file was replaced meanwhile")

// rescued is a rebuilt file that is not in its place yet.
type rescued struct {
	job    probeJob
	report probeReport
	why    string
	bad    os.FileInfo // of the file that it is to replace
}

// salvage has the readable records of a bad segment written to a new file. It
// fails with *corruptError where nothing could be rescued.
func (s *Spool) salvage(ctx context.Context, look *probeJob, why string) (x rescued, err error) {
	x = rescued{job: *look, why: why}
	x.job.Salvage = x.job.Path + salvageSuffix
	if x.job.Role == roleSegment {
		x.job.Index = indexPath(x.job.Path) + tempSuffix
	}
	if x.bad, err = os.Stat(x.job.Path); err != nil {
		return x, err
	}
	if x.report, err = s.runSalvage(ctx, &x.job); err != nil {
		return x, err
	}
	if x.report.Verdict != verdictGood {
		return x, &corruptError{path: x.job.Path, why: why + "; it could not be salvaged: " + x.report.Why, full: x.report.Verdict == verdictFull}
	}
	return x, nil
}

// drop removes a rebuilt file that is not wanted.
func (x *rescued) drop() error {
	if x.job.Salvage == "" {
		return nil
	}
	err := os.RemoveAll(x.job.Salvage)
	if x.job.Index != "" {
		err = errors.Join(err, os.RemoveAll(x.job.Index))
	}
	return err
}

// install puts a rebuilt file in the place of the bad one. Callers hold
// commitMu, or are the opening.
func (s *Spool) install(g *segment, x *rescued) error {
	if now, err := os.Stat(g.path); err != nil || !os.SameFile(now, x.bad) {
		return errors.Join(x.drop(), errReplaced)
	}
	if err := g.close(false); err != nil {
		s.log.Warn("a corrupt file did not close", "file", g.path, "error", err)
	}
	aside, err := s.replace(&x.job)
	if err != nil {
		return s.breakDown("replace a corrupt segment", err)
	}
	size, err := fileSize(g.path)
	if err != nil {
		return s.breakDown("replace a corrupt segment", err)
	}
	r := &x.report
	s.mu.Lock()
	g.size = size
	if r.IndexBytes > 0 {
		g.indexSize = r.IndexBytes
	}
	s.stats.salvaged++
	s.mu.Unlock()
	s.log.Error("a file of the spool was damaged: what reads is kept, the rest is declared lost",
		"file", g.path, "error", x.why, "blocks_kept", r.Blocks, "blocks_lost", len(r.Lost), "open_records_kept", r.Records,
		"dead_letters_kept", r.Letters, "lost_without_count", r.Unknown, "damaged_file", filepath.Base(aside))
	return nil
}

// runSalvage runs a job that writes, and where there is no space for it gives
// up the reserve and files put aside.
func (s *Spool) runSalvage(ctx context.Context, j *probeJob) (probeReport, error) {
	for {
		r, err := s.runProbe(ctx, j)
		if err != nil || r.Verdict != verdictFull {
			return r, err
		}
		s.mu.Lock()
		var aside *asideFile
		if len(s.aside) > 0 {
			aside = &s.aside[0]
		}
		s.mu.Unlock()
		s.commitMu.Lock()
		freed := s.dropReserve()
		if !freed && aside != nil {
			freed, err = true, s.dropAside(aside)
		}
		s.commitMu.Unlock()
		if !freed || err != nil {
			return r, err
		}
	}
}

// replace puts a rebuilt file in the place of a bad one, which stays under
// another name. A crash at any moment leaves one of the two under the name
// that counts.
func (s *Spool) replace(j *probeJob) (aside string, err error) {
	s.touched = true
	if err := s.hooks.at("salvage written"); err != nil {
		return "", err
	}
	if aside, err = s.keepBad(j.Path); err != nil {
		return "", err
	}
	if err := s.hooks.at("salvage kept"); err != nil {
		return "", err
	}
	if j.Index != "" {
		// Its headers are right for both files.
		if err := os.Rename(j.Index, indexPath(j.Path)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(j.Salvage, j.Path); err != nil {
		return "", err
	}
	if err := s.hooks.at("salvage renamed"); err != nil {
		return "", err
	}
	// That the bad file failed in use says nothing of the new one.
	if err := os.RemoveAll(j.Path + badSuffix); err != nil {
		return "", err
	}
	return aside, syncDir(s.o.Dir)
}

// keepBad gives a bad file a second name, or where a crash came after that
// finds it.
func (s *Spool) keepBad(path string) (string, error) {
	bad, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	for _, a := range s.aside {
		if info, err := os.Stat(a.path); err == nil && os.SameFile(info, bad) {
			s.mu.Unlock()
			return a.path, nil
		}
	}
	s.mu.Unlock()
	to := s.asideName(path)
	err = os.Link(path, to)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		err = copyFile(path, to) // a file system without hard links
	}
	if err == nil {
		err = syncDir(s.o.Dir)
	}
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.aside = append(s.aside, asideFile{to, bad.Size()})
	s.mu.Unlock()
	return to, nil
}

// asideName is a name that no file has.
func (s *Spool) asideName(path string) string {
	to := path + corruptMark + s.now().UTC().Format("20060102T150405.000")
	for exists(to) {
		to += "x"
	}
	return to
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	temp := to + tempSuffix
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return os.Rename(temp, to)
}

// examine looks at a file during the opening, and salvages it where it is bad.
// It fails with *corruptError where it must not be mapped.
func (s *Spool) examine(ctx context.Context, g *segment, as role, index bool) error {
	j := probeJob{Path: g.path, Role: as, ID: g.id}
	if index && !s.readOnly {
		j.Index = indexPath(g.path) + tempSuffix
	}
	r, err := s.runProbe(ctx, &j)
	if err != nil {
		return fmt.Errorf("spool %s: %w", s.o.Dir, err)
	}
	switch {
	case r.Verdict == verdictNewer:
		return s.newer(g.path, r.Why)
	case r.Verdict == verdictGood && j.Index != "":
		if err := os.Rename(j.Index, indexPath(g.path)); err != nil {
			return fmt.Errorf("spool %s: %w", s.o.Dir, err)
		}
	case r.Verdict == verdictGood:
	case s.readOnly, s.maintained && as == roleTail: // the daemon's to mend
		return &corruptError{path: g.path, why: r.Why}
	default:
		x, err := s.salvage(ctx, &j, r.Why)
		if err == nil {
			err = s.install(g, &x)
		}
		if err != nil {
			return err
		}
		g.lost = x.report.Lost
	}
	g.probed.Store(true)
	return nil
}

// newer says that a later version has written the spool.
func (s *Spool) newer(path, version string) error {
	return &NewerError{Dir: s.o.Dir, File: filepath.Base(path), Format: version}
}

// giveUp declares all that an older segment held, and puts it aside.
func (s *Spool) giveUp(g *segment, why *corruptError) error {
	lost, err := s.unackedBlocks(g)
	if err != nil {
		lost = nil // they are counted without their streams
	}
	if err := s.declareSegment(g, lost, CauseCorrupt); err != nil {
		return err
	}
	if err := s.putAside(g, why.why); err != nil {
		return s.breakDown("put a corrupt segment aside", err)
	}
	s.mu.Lock()
	s.remove(g)
	s.stats.corrupt++
	s.mu.Unlock()
	return nil
}
