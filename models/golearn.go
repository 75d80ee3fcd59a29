package models

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/sjwhitworth/golearn/base"
	"github.com/sjwhitworth/golearn/naive"
	"github.com/sjwhitworth/golearn/trees"
)

// CART is golearn's classification tree, a baseline. It learns from at most 32 bins a
// feature, because it counts all rows again for each threshold, and from rows drawn by
// weight where there are weights, because it knows none. The zero CART has depth 6.
type CART struct {
	Depth int
}

// Name is "cart".
func (c *CART) Name() string { return "cart" }

// coarse is the number of bins that golearn's learners are given.
const coarse = 32

// Fit learns. golearn's tree predicts labels alone; its leaves are given the training
// rows that reach them, and it is kept as a forest of one tree.
func (c *CART) Fit(ctx context.Context, d *Data, seed uint64) (Model, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if oneClass(d) {
		return &Constant{d.shares()}, nil
	}
	im, full := impute(drawn(d, seed))
	grid, limits, err := coarseGrid(full)
	if err != nil {
		return nil, fmt.Errorf("models: fit: cart: %w", err)
	}
	labels := make([]int64, d.Classes)
	for k := range labels {
		labels[k] = int64(k)
	}
	depth := c.Depth
	if depth == 0 {
		depth = 6
	}
	tree := trees.NewDecisionTreeClassifier(trees.GINI, int64(depth), labels)
	if err := tree.Fit(grid); err != nil {
		return nil, fmt.Errorf("models: fit: cart: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("models: fit: %w", err)
	}

	// golearn's nodes have a type without a name, so they are walked by a list. A node
	// goes left below its threshold, which lies between two bins.
	out := countsTree{{}}
	all := make([]int, full.Rows)
	for i := range all {
		all[i] = i
	}
	queue, rows, at := listOf(tree.RootNode), [][]int{all}, []int32{0}
	for next := 0; next < len(queue); next++ {
		n := queue[next]
		counts := make([]int, d.Classes)
		for _, i := range rows[next] {
			counts[full.Y[i]]++
		}
		var left, right []int
		if n != nil && len(limits[n.Feature]) > 0 {
			bin := int(math.Floor(n.Threshold))
			for _, i := range rows[next] {
				if int(binOf(limits[n.Feature], full.Row(i)[n.Feature])) <= bin {
					left = append(left, i)
				} else {
					right = append(right, i)
				}
			}
		}
		if len(left) == 0 || len(right) == 0 {
			out[at[next]] = countsNode{Counts: counts}
			continue
		}
		a := int32(len(out))
		out[at[next]] = countsNode{Limit: limits[n.Feature][int(n.Threshold)], Feature: int32(n.Feature), Left: a, Right: a + 1}
		out = append(out, countsNode{}, countsNode{})
		queue, rows, at = append(queue, n.Left, n.Right), append(rows, left, right), append(at, a, a+1)
	}
	return &Grown{Imputed: im, Classes: d.Classes, Trees: []countsTree{out}}, nil
}

// coarseGrid is the data set of the values' bins.
func coarseGrid(d *Data) (base.FixedDataGrid, [][]float64, error) {
	limits, grid := make([][]float64, len(d.Names)), base.NewDenseInstances()
	specs := make([]base.AttributeSpec, len(d.Names))
	for f, name := range d.Names {
		limits[f] = thin(d, f, coarse)
		specs[f] = grid.AddAttribute(base.NewFloatAttribute(name))
	}
	class := base.NewFloatAttribute("label")
	classSpec := grid.AddAttribute(class)
	if err := grid.AddClassAttribute(class); err != nil {
		return nil, nil, err
	}
	if err := grid.Extend(d.Rows); err != nil {
		return nil, nil, err
	}
	for i := range d.Rows {
		for f, v := range d.Row(i) {
			grid.Set(specs[f], i, base.PackFloatToBytes(float64(binOf(limits[f], v))))
		}
		grid.Set(classSpec, i, base.PackFloatToBytes(float64(d.Y[i])))
	}
	return grid, limits, nil
}

func listOf[T any](v T) []T { return []T{v} }

// drawn are as many rows, by weight, for learners that know no weights.
func drawn(d *Data, seed uint64) *Data {
	if d.Weight == nil {
		return d
	}
	upTo, sum := make([]float64, d.Rows), 0.0
	for i, w := range d.Weight {
		sum += w
		upTo[i] = sum
	}
	random := rand.New(rand.NewPCG(seed, 0xd4a3))
	rows := make([]int, d.Rows)
	for i := range rows {
		at, _ := slices.BinarySearch(upTo, random.Float64()*sum)
		rows[i] = min(at, d.Rows-1)
	}
	slices.Sort(rows)
	out := d.Select(rows)
	out.Weight = nil
	return out
}

// thin are limits of at most so many bins of a feature's known values.
func thin(d *Data, f, bins int) []float64 {
	var values []float64
	for i := range d.Rows {
		if v := d.Row(i)[f]; !math.IsNaN(v) {
			values = append(values, v)
		}
	}
	slices.Sort(values)
	limits := limitsOf(values)
	if len(limits) < bins {
		return limits
	}
	var out []float64
	for k := 1; k < bins; k++ {
		// The limit below which k of the bins' shares of the values lie.
		v := values[k*len(values)/bins]
		i, _ := slices.BinarySearch(limits, v)
		if i = min(i, len(limits)-1); len(out) == 0 || limits[i] > out[len(out)-1] {
			out = append(out, limits[i])
		}
	}
	return out
}

// NaiveBayes is golearn's Bernoulli naive Bayes, a baseline: a feature is the quarter
// of its known values that it lies in, or unknown. Rows are drawn as for CART.
type NaiveBayes struct{}

// Name is "naive-bayes".
func (NaiveBayes) Name() string { return "naive-bayes" }

// Naive is what NaiveBayes learns: for each class the sum of logarithms of a row of
// which nothing is true, and what each bit that is true adds. A feature has one
// bit for each bin and one for unknown.
type Naive struct {
	Limits [][]float64 `json:"limits"`
	Base   []float64   `json:"base"`
	Bits   [][]float64 `json:"bits"`
}

// never is the logarithm of the chance of a class that the data did not have.
const never = -1e300

// Predict is the normalised product of the bits' probabilities.
func (m *Naive) Predict(x, into []float64) {
	copy(into, m.Base)
	at := 0
	for f, limits := range m.Limits {
		bit := at + len(limits) + 1
		if b := binOf(limits, x[f]); b != missing {
			bit = at + int(b)
		}
		for k := range into {
			into[k] += m.Bits[k][bit]
		}
		at += len(limits) + 2
	}
	softmax(into)
}

// Fit learns.
func (NaiveBayes) Fit(ctx context.Context, d *Data, seed uint64) (Model, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	if oneClass(d) {
		return &Constant{d.shares()}, nil
	}
	d = drawn(d, seed)
	m := &Naive{Limits: make([][]float64, len(d.Names)), Base: make([]float64, d.Classes), Bits: make([][]float64, d.Classes)}
	grid := base.NewDenseInstances()
	// The first bit is true of every row: golearn panics at a class of which no bit
	// ever is.
	specs := []base.AttributeSpec{grid.AddAttribute(base.NewBinaryAttribute("always"))}
	for f, name := range d.Names {
		m.Limits[f] = thin(d, f, 4)
		for b := range len(m.Limits[f]) + 2 {
			specs = append(specs, grid.AddAttribute(base.NewBinaryAttribute(name+" "+strconv.Itoa(b))))
		}
	}
	class := base.NewFloatAttribute("label")
	classSpec := grid.AddAttribute(class)
	if err := grid.AddClassAttribute(class); err != nil {
		return nil, fmt.Errorf("models: fit: naive: %w", err)
	}
	if err := grid.Extend(d.Rows); err != nil {
		return nil, fmt.Errorf("models: fit: naive: %w", err)
	}
	no, yes := []byte{0}, []byte{1}
	seen := make([]int, d.Classes)
	for i := range d.Rows {
		grid.Set(specs[0], i, yes)
		at := 1
		for f, v := range d.Row(i) {
			bits := len(m.Limits[f]) + 2
			on := bits - 1
			if b := binOf(m.Limits[f], v); b != missing {
				on = int(b)
			}
			for b := range bits {
				bit := no
				if b == on {
					bit = yes
				}
				grid.Set(specs[at+b], i, bit)
			}
			at += bits
		}
		grid.Set(classSpec, i, base.PackFloatToBytes(float64(d.Y[i])))
		seen[d.Y[i]]++
	}
	learned := naive.NewBernoulliNBClassifier()
	if err := learned.Fit(grid); err != nil {
		return nil, fmt.Errorf("models: fit: naive: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("models: fit: %w", err)
	}
	// golearn tells the label alone; the chances behind it are in a field without a
	// getter.
	chances := reflect.ValueOf(learned).Elem().FieldByName("condProb")
	if chances.Kind() != reflect.Map {
		return nil, fmt.Errorf("models: fit: naive: this golearn keeps no condProb")
	}
	// golearn orders the attributes anew; the names say which is which.
	order := base.AttributeDifference(grid.AllAttributes(), grid.AllClassAttributes())
	position := map[string]int{}
	for i, s := range specs {
		position[s.GetAttribute().GetName()] = i - 1
	}
	for k := range d.Classes {
		m.Bits[k] = make([]float64, len(specs)-1)
		of := chances.MapIndex(reflect.ValueOf(class.GetStringFromSysVal(base.PackFloatToBytes(float64(k)))))
		if !of.IsValid() {
			m.Base[k] = never
			continue
		}
		m.Base[k] = math.Log(float64(seen[k]) / float64(d.Rows))
		for i, a := range order {
			bit := position[a.GetName()]
			if bit < 0 {
				continue // certain, and so adds log 1
			}
			p := of.Index(i).Float()
			not := 1 - p
			if p == 1 {
				not = 1 / float64(seen[k]+1)
			}
			m.Base[k] += math.Log(not)
			m.Bits[k][bit] = math.Log(p) - math.Log(not)
		}
	}
	return m, nil
}

// Classifier makes a Learner one of golearn's: features are the grid's float
// attributes, NaN where a value is unknown; the class is its class attribute.
type Classifier struct {
	Learner Learner
	Seed    uint64

	learned struct {
		Features []string `json:"features"`
		Classes  []string `json:"classes"`
		Model    Coded    `json:"model"`
	}
	model Model
}

var _ base.Classifier = (*Classifier)(nil)

// String is the learner's name.
func (c *Classifier) String() string { return c.Learner.Name() }

// Fit learns.
func (c *Classifier) Fit(grid base.FixedDataGrid) error {
	if n := len(grid.AllClassAttributes()); n != 1 {
		return fmt.Errorf("models: fit: grid with %d class attributes", n)
	}
	_, rows := grid.Size()
	labels := make([]string, rows)
	for i := range labels {
		labels[i] = base.GetClass(grid, i)
	}
	classes := slices.Compact(slices.Sorted(slices.Values(labels)))
	names, x, err := floats(grid)
	if err != nil {
		return err
	}
	// A grid of one class still is a question with two answers.
	d := &Data{Names: names, Rows: rows, X: x, Classes: max(2, len(classes))}
	for _, l := range labels {
		k, _ := slices.BinarySearch(classes, l)
		d.Y = append(d.Y, k)
	}
	m, err := c.Learner.Fit(context.Background(), d, c.Seed)
	if err != nil {
		return err
	}
	if len(classes) == 1 {
		classes = append(classes, classes[0])
	}
	c.learned.Features, c.learned.Classes, c.model = names, classes, m
	return nil
}

// floats is a grid's matrix of features.
func floats(grid base.FixedDataGrid) (names []string, x []float64, err error) {
	attributes := base.NonClassAttributes(grid)
	// golearn gives them in the order of a map.
	slices.SortFunc(attributes, func(a, b base.Attribute) int { return strings.Compare(a.GetName(), b.GetName()) })
	for _, a := range attributes {
		if _, ok := a.(*base.FloatAttribute); !ok {
			return nil, nil, fmt.Errorf("models: grid: %s is no float attribute", a.GetName())
		}
		names = append(names, a.GetName())
	}
	_, rows := grid.Size()
	x = make([]float64, 0, rows*len(names))
	specs := base.ResolveAttributes(grid, attributes)
	err = grid.MapOverRows(specs, func(row [][]byte, _ int) (bool, error) {
		for _, v := range row {
			x = append(x, base.UnpackBytesToFloat(v))
		}
		return true, nil
	})
	return names, x, err
}

// Predict is the most probable class of each row; of equally probable ones the first.
func (c *Classifier) Predict(grid base.FixedDataGrid) (base.FixedDataGrid, error) {
	if c.model == nil {
		return nil, fmt.Errorf("models: predict: %s has learned nothing", c)
	}
	names, x, err := floats(grid)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(names, c.learned.Features) {
		return nil, fmt.Errorf("models: predict: features %v, learned from %v", names, c.learned.Features)
	}
	out := base.GeneratePredictionVector(grid)
	_, rows := grid.Size()
	p := make([]float64, len(c.learned.Classes))
	for i := range rows {
		c.model.Predict(x[i*len(names):(i+1)*len(names)], p)
		base.SetClass(out, i, c.learned.Classes[slices.Index(p, slices.Max(p))])
	}
	return out, nil
}

// GetMetadata is what golearn writes in front of a saved classifier.
func (c *Classifier) GetMetadata() base.ClassifierMetadataV1 {
	return base.ClassifierMetadataV1{FormatVersion: 1, ClassifierName: c.Learner.Name(), ClassifierVersion: "1"}
}

// Save writes golearn's archive. A model without a code cannot be saved.
func (c *Classifier) Save(path string) error {
	w, err := base.CreateSerializedClassifierStub(path, c.GetMetadata())
	if err != nil {
		return fmt.Errorf("models: save %s: %w", path, err)
	}
	if err := c.SaveWithPrefix(w, ""); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// SaveWithPrefix writes it into an archive.
func (c *Classifier) SaveWithPrefix(w *base.ClassifierSerializer, prefix string) error {
	coded, err := Encode(c.model)
	if err != nil {
		return err
	}
	c.learned.Model = coded
	b, err := json.Marshal(c.learned)
	if err != nil {
		return fmt.Errorf("models: save: %w", err)
	}
	return w.WriteBytesForKey(w.Prefix(prefix, "model"), b)
}

// Load reads what Save wrote.
func (c *Classifier) Load(path string) error {
	r, err := base.ReadSerializedClassifierStub(path)
	if err != nil {
		return fmt.Errorf("models: load %s: %w", path, err)
	}
	return c.LoadWithPrefix(r, "")
}

// LoadWithPrefix reads it from an archive.
func (c *Classifier) LoadWithPrefix(r *base.ClassifierDeserializer, prefix string) error {
	b, err := r.GetBytesForKey(r.Prefix(prefix, "model"))
	if err != nil {
		return fmt.Errorf("models: load: %w", err)
	}
	if err := Strict(b, &c.learned); err != nil {
		return fmt.Errorf("models: load: %w", err)
	}
	c.model, err = Decode(c.learned.Model, len(c.learned.Features), len(c.learned.Classes))
	return err
}
