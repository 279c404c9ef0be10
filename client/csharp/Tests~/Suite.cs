using System;
using System.Collections.Generic;

namespace Gateway.Client.Tests
{
    /// <summary>Runs tests one after the other, and counts them.</summary>
    internal sealed class Suite
    {
        public int Passed { get; private set; }
        public int Failed { get; private set; }

        public void Test(string name, Action test)
        {
            try
            {
                test();
                Passed += 1;
            }
            catch (Exception error)
            {
                Failed += 1;
                Console.WriteLine("FAILED: " + name + ": " + error);
            }
        }

        /// <summary>Asserts that two values are the same, as JSON writes them.</summary>
        public static void Same(string what, object real, object expected)
        {
            var written = Json.Write(real);
            var wanted = Json.Write(expected);
            if (written != wanted) throw new Exception(what + ": " + written + " instead of " + wanted);
        }

        /// <summary>Returns what the action throws, which has to be of this type.</summary>
        public static T Throws<T>(Action action) where T : Exception
        {
            try
            {
                action();
            }
            catch (T error)
            {
                return error;
            }
            throw new Exception("there is no " + typeof(T).Name);
        }

        public static List<object> List(params object[] items)
        {
            return new List<object>(items);
        }
    }
}
